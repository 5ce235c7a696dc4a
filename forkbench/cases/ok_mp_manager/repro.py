#!/usr/bin/env python3
"""a Manager's dict used by threads and by a child

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: each thread and each process has a connection of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing as mp
m = mp.get_context("fork").Manager()
d = m.dict()
def w(): d["a"] = 1
busy(w, 2, 0.001); time.sleep(0.1)
run_mp_child(lambda: d.update(b=2), forks=10, gap=0.01)
