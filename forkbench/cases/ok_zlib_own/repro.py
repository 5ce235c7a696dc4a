#!/usr/bin/env python3
"""compressors of each thread's own

library: CPython zlib (3.x)   expect: safe
mechanism: SAFE: their locks are in the threads' own variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zlib
d = os.urandom(300_000)
def f(): c = zlib.compressobj(); c.compress(d); c.flush()
busy(f, 2)
run_child(f, forks=20, gap=0.01)
