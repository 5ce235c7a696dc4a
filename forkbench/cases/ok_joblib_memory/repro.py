#!/usr/bin/env python3
"""joblib.Memory in threads and child

library: joblib (1.6.0)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from joblib import Memory
import tempfile
m = Memory(tempfile.mkdtemp(), verbose=0)
@m.cache
def f(x): return x
i = [0]
def w(): i[0] += 1; f(i[0] % 50)
busy(w, 2); time.sleep(0.5)
run_child(lambda: f(3), forks=20, gap=0.01)
