#!/usr/bin/env python3
"""tracemalloc on, threads allocate

library: CPython tracemalloc (3.x)   expect: safe
mechanism: SAFE: its lock is never held without the GIL
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tracemalloc; tracemalloc.start(5)
busy(lambda: [bytearray(100) for _ in range(100)], 3); time.sleep(0.1)
run_child(lambda: [bytearray(100) for _ in range(100)], forks=50, gap=0.003)
