#!/usr/bin/env python3
"""joblib's threading backend in a thread

library: joblib (1.6.0)   expect: safe
mechanism: SAFE: its pool and locks are that thread's own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from joblib import Parallel, delayed
busy(lambda: Parallel(2, backend="threading")(delayed(abs)(i) for i in range(10)), 1); time.sleep(0.5)
run_child(lambda: Parallel(1)(delayed(abs)(i) for i in range(3)), forks=10, gap=0.01)
