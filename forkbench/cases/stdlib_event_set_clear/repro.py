#!/usr/bin/env python3
"""an Event set and cleared by several threads

library: CPython threading (3.x)   expect: hang
mechanism: the lock of Event._cond, of a thread in set() or clear()
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
e = threading.Event()
def w(): e.set(); e.clear()
busy(w, 3); time.sleep(0.05)
run_child(lambda: e.set(), forks=150, gap=0.002)
