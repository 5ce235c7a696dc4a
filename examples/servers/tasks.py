"""Tasks that need a lock which a thread of the worker's main process has most of the time.

Celery's prefork pool forks a new child for each that has done its tasks, from a process that has this thread.

    BROKER=redis://localhost celery -A tasks worker --pool=prefork --max-tasks-per-child=1                 # hangs
    BROKER=redis://localhost FORKPROOF=on celery -A tasks worker --pool=prefork --max-tasks-per-child=1    # does not

Without BROKER the queue is a folder, FOLDER.
"""

import os
import sys
import threading
import time

from celery import Celery

broker = os.environ.get("BROKER", "filesystem://")
if broker == "filesystem://":
    folder = os.environ["FOLDER"]
    app = Celery("tasks", broker=broker, backend=f"file://{folder}/results")
    for needed in ("queue", "results"):
        os.makedirs(f"{folder}/{needed}", exist_ok=True)
    app.conf.broker_transport_options = dict.fromkeys(
        ("data_folder_in", "data_folder_out", "control_folder"), f"{folder}/queue"
    )
else:
    app = Celery("tasks", broker=broker, backend=broker)

lock = threading.Lock()


@app.task
def work(number):
    with lock:
        return [number, os.getpid()]


def measure():
    while True:
        with lock:
            time.sleep(0.01)
        time.sleep(0.0001)


# QUIET: the same thread with nothing to count, for what a fork costs where nothing is at risk.
if "worker" in sys.argv:
    sleeps = threading.Event().wait
    threading.Thread(
        target=sleeps if os.environ.get("QUIET") else measure, name="metrics", daemon=True
    ).start()
