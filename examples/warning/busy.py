"""Forks beside a thread that holds a lock which the child takes: the same warning, and this time it is right."""

import os
import threading
import time

cache = threading.Lock()


def refresh():
    while True:
        with cache:
            time.sleep(0.2)
        time.sleep(0.01)


threading.Thread(target=refresh, name="refresher", daemon=True).start()

if child := os.fork():
    os.waitpid(child, 0)
else:
    with cache:
        print("the child works", flush=True)
    os._exit(0)
