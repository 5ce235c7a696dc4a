#!/usr/bin/env python3
"""a thread has a multiprocessing.Lock for moments; the child takes it too

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: the lock is of all processes, and the parent's thread lets go of it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing
lock = multiprocessing.Lock()
def use():
    with lock: time.sleep(0.02)
busy(use, 2, 0.01); time.sleep(0.1)
run_child(use, forks=10, gap=0.01)
