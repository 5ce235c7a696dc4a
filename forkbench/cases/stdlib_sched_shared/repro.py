#!/usr/bin/env python3
"""a scheduler that threads and the child enter events into

https://github.com/python/cpython/blob/main/Lib/sched.py
library: CPython sched (3.x)   expect: hang
mechanism: RLock of the scheduler, contended
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sched
s = sched.scheduler()
def work():
    e = s.enter(3600, 1, print); s.cancel(e)
busy(work, 3)
time.sleep(0.1)
run_child(work, forks=300)
