#!/usr/bin/env python3
"""each thread makes executors of its own

library: CPython concurrent.futures (3.x)   expect: safe
mechanism: SAFE: their locks are in the threads' own variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from concurrent.futures import ThreadPoolExecutor
def w():
    with ThreadPoolExecutor(2) as p: list(p.map(abs, range(5)))
busy(w, 3); time.sleep(0.2)
run_child(w, forks=100, gap=0.003)
