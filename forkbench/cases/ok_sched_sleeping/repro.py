#!/usr/bin/env python3
"""a scheduler that sleeps until its next event

library: CPython sched (3.x)   expect: safe
mechanism: SAFE: it sleeps without its lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sched
s = sched.scheduler()
s.enter(100, 1, lambda: None); thread(s.run); time.sleep(0.1)
run_child(lambda: s.enter(1, 1, lambda: None), forks=5)
