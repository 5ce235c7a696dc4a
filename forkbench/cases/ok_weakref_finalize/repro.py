#!/usr/bin/env python3
"""finalizers made and run in threads

library: CPython weakref (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import weakref
class A: pass
def w():
    a = A(); weakref.finalize(a, int); del a
busy(w, 3); time.sleep(0.1)
run_child(w, forks=50, gap=0.003)
