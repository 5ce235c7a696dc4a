#!/usr/bin/env python3
"""foreign functions called in threads, a library opened in the child

library: CPython ctypes (3.x)   expect: safe
mechanism: SAFE: glibc makes its loader's lock safe over a fork
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import ctypes
libc = ctypes.CDLL(None)
busy(lambda: libc.usleep(1000), 2); time.sleep(0.1)
run_child(lambda: ctypes.CDLL("libm.so.6"), forks=20, gap=0.003)
