#!/usr/bin/env python3
"""a shared Value counted up by threads and child

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: its lock is shared with the parent, which lives
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing as mp
v = mp.get_context("fork").Value("i", 0)
def w():
    with v.get_lock(): v.value += 1
busy(w, 2); time.sleep(0.1)
run_mp_child(w, forks=10, gap=0.005)
