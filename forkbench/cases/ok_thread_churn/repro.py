#!/usr/bin/env python3
"""threads that start, end and are joined

library: CPython threading (3.x)   expect: safe
mechanism: SAFE: threading renews its locks
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
def churn():
    t = threading.Thread(target=int); t.start(); t.join()
busy(churn, 2); time.sleep(0.1)
run_child(churn, forks=100, gap=0.003)
