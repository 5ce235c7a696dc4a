"""An application that counts in a thread of its own, as metrics libraries do, and has a lock for most of the time.

With `gunicorn --preload` that thread runs in the arbiter, which forks a new worker for each that has served its requests. The
worker has the lock as it was at the fork, and not the thread that would give it back.

    gunicorn --preload --workers 2 --max-requests 1 application:app                  # hangs
    FORKPROOF=on gunicorn --preload --workers 2 --max-requests 1 application:app     # does not
"""

import os
import threading
import time

lock = threading.Lock()


def measure():
    while True:
        with lock:
            time.sleep(0.01)
        time.sleep(0.0001)


# QUIET: the same thread with nothing to count, for what a fork costs where nothing is at risk.
sleeps = threading.Event().wait
threading.Thread(target=sleeps if os.environ.get("QUIET") else measure, name="metrics", daemon=True).start()


def app(environ, start_response):
    with lock:
        start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
