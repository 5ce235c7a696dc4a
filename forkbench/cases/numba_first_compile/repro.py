#!/usr/bin/env python3
"""functions compiled by numba in a thread and in a child

library: numba (0.68.1)   expect: hang
mechanism: numba.core.compiler_lock.global_compiler_lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import numba
i = [0]
def comp():
    i[0] += 1
    numba.njit(eval("lambda x: x + %d" % i[0]))(1)
busy(comp, 1); time.sleep(3)
run_child(lambda: numba.njit(lambda x: x + 1)(1), forks=5, gap=0.01)
