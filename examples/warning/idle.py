"""Forks beside a thread that holds nothing: CPython's warning has no reason here."""

import os
import threading

threading.Thread(target=threading.Event().wait, name="idle", daemon=True).start()

if child := os.fork():
    os.waitpid(child, 0)
else:
    print("the child works", flush=True)
    os._exit(0)
