#!/usr/bin/env python3
"""the ThreadPool of multiprocess (dill) used in a child

library: multiprocess (0.70.19)   expect: hang
mechanism: nothing: the pool's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocess.pool
p = multiprocess.pool.ThreadPool(2); p.apply(abs, (1,))
run_child(lambda: p.apply(abs, (1,)))
