#!/usr/bin/env python3
"""an idle Pool; the child makes its own

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: the child does not use the parent's
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing as mp
pool = mp.get_context("fork").Pool(1); pool.apply(abs, (1,))
time.sleep(0.2)
def child():
    with mp.get_context("fork").Pool(1) as p: p.apply(abs, (-1,))
run_child(child, forks=3)
