#!/usr/bin/env python3
"""a thread is in a slow function under cached(lock=...)

library: cachetools (8.0.1)   expect: safe
mechanism: SAFE: the lock is not held while the function runs
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import cachetools
@cachetools.cached(cachetools.TTLCache(100, 60), lock=threading.Lock())
def load(key): time.sleep(1.5 if key == "slow" else 0); return key
thread(load, "slow"); time.sleep(0.2)
run_child(lambda: load("fast"), forks=4)
