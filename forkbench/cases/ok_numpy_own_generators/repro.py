#!/usr/bin/env python3
"""each thread has a generator of its own

library: numpy (2.4.6)   expect: safe
mechanism: SAFE: the generator's lock is in that thread's variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import numpy as np
def f():
    g = np.random.default_rng()
    while True: g.standard_normal(200000)
thread(f); time.sleep(0.2)
run_child(lambda: np.random.default_rng(3).random(), forks=20, gap=0.005)
