#!/usr/bin/env python3
"""a shelf written in a thread, another in the child

library: CPython shelve (3.x)   expect: safe
mechanism: SAFE: no lock that a child could want
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import shelve, tempfile
s = shelve.open(tempfile.mktemp())
def w(): s["k"] = list(range(100))
busy(w, 1, 0.001); time.sleep(0.05)
def child():
    t = shelve.open(tempfile.mktemp()); t["a"] = 1; t.close()
run_child(child, forks=20, gap=0.005)
