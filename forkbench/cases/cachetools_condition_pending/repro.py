#!/usr/bin/env python3
"""a thread computes a value that the child waits for (no stampede)

https://github.com/tkem/cachetools
library: cachetools (8.0.1)   expect: hang
mechanism: nothing that is a lock: the key in cached()'s pending set
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import cachetools
@cachetools.cached(cachetools.TTLCache(100, 60), condition=threading.Condition())
def load(key): time.sleep(1.0); return key
thread(load, "a"); time.sleep(0.2)
run_child(lambda: load("a"))
