#!/usr/bin/env python3
"""digests of much data, of each thread's own

library: CPython hashlib (3.x)   expect: safe
mechanism: SAFE: their locks are in the threads' own variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import hashlib
d = bytes(3_000_000)
busy(lambda: hashlib.sha256(d).hexdigest(), 2)
run_child(lambda: hashlib.sha256(d).hexdigest(), forks=20, gap=0.01)
