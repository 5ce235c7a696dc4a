"""A job queue in miniature: a thread keeps count of what goes on, and each job runs in a child.

It hangs, about never: when a job is started while the other thread is between two lines of Totals.add, the child finds the
lock held by a thread that it does not have.
"""

import os
import threading
import time


class Totals:
    def __init__(self):
        self._lock = threading.Lock()
        self._seen = {}

    def add(self, name):
        with self._lock:
            self._seen[name] = self._seen.get(name, 0) + 1


totals = Totals()


def sample():
    """What a metrics thread does: now and then it takes a number."""
    while True:
        totals.add("load %.0f" % os.getloadavg()[0])
        time.sleep(0.001)


def job(number):
    totals.add("jobs")
    os._exit(0)


threading.Thread(target=sample, daemon=True).start()
for number in range(5):
    pid = os.fork()
    if pid == 0:
        job(number)
    os.waitpid(pid, 0)
