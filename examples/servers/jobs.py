"""RQ's jobs, which need a lock that a thread of the worker has most of the time; RQ forks a process for each job.

    python jobs.py redis://localhost                  # hangs until RQ's own time limit for the job
    FORKPROOF=on python jobs.py redis://localhost     # does not

A worker of one's own that has the jobs' modules imported before it forks is what RQ recommends for large libraries.
"""

import os
import sys
import threading
import time

lock = threading.Lock()


def work(number):
    with lock:
        return [number, os.getpid()]


def measure():
    while True:
        with lock:
            time.sleep(0.01)
        time.sleep(0.0001)


if __name__ == "__main__":
    import jobs  # as the worker's processes know it
    from redis import Redis
    from rq import Worker

    threading.Thread(target=jobs.measure, name="metrics", daemon=True).start()
    Worker(["forkproof"], connection=Redis.from_url(sys.argv[1])).work()
