#!/usr/bin/env python3
"""functools.lru_cache in threads

library: CPython functools (3.x)   expect: safe
mechanism: SAFE: the C implementation has no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import functools
@functools.lru_cache(100)
def f(x): return x + 1
i = [0]
def w(): i[0] += 1; f(i[0] % 300)
busy(w, 3); time.sleep(0.05)
run_child(lambda: f(3), forks=100, gap=0.002)
