#!/usr/bin/env python3
"""threads submit to one executor, the child to its own

library: CPython concurrent.futures (3.x)   expect: safe
mechanism: SAFE: the executor's lock is held for moments, and the child wants none of it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from concurrent.futures import ThreadPoolExecutor
shared = ThreadPoolExecutor(4)
def w(): list(shared.map(abs, range(5)))
busy(w, 3); time.sleep(0.2)
def child():
    with ThreadPoolExecutor(2) as p: list(p.map(abs, range(5)))
run_child(child, forks=150, gap=0.003)
