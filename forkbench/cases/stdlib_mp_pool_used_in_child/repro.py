#!/usr/bin/env python3
"""a multiprocessing.Pool of the parent's, used in a child

library: CPython multiprocessing (3.x)   expect: hang
mechanism: nothing: the threads that hand out tasks and take results
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing as mp
pool = mp.get_context("fork").Pool(1); pool.apply(abs, (1,))
run_child(lambda: pool.apply(abs, (-1,)))
