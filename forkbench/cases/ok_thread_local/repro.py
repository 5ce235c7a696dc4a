#!/usr/bin/env python3
"""thread-local values in threads

library: CPython threading (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
l = threading.local()
def w(): l.x = [1]; time.sleep(0.001)
busy(w, 3); time.sleep(0.05)
run_child(lambda: setattr(l, "y", 1), forks=50, gap=0.002)
