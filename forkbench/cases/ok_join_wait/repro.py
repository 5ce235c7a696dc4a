#!/usr/bin/env python3
"""a thread waits for the end of another

library: CPython threading (3.x)   expect: safe
mechanism: SAFE: threading forgets both
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
t0 = thread(time.sleep, 100)
thread(t0.join); time.sleep(0.1)
run_child(churn := (lambda: None), forks=5)
