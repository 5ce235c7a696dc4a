#!/usr/bin/env python3
"""threads wait for an Event that the child sets

library: CPython threading (3.x)   expect: safe
mechanism: SAFE: a thread in wait() has let go of the lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
e = threading.Event()
for _ in range(5): thread(e.wait)
time.sleep(0.1)
run_child(lambda: e.set(), forks=5)
