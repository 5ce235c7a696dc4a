#!/usr/bin/env python3
"""loggers made in threads

library: CPython logging (3.x)   expect: safe
mechanism: SAFE: logging renews its own locks
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import logging
n = [0]
def make():
    n[0] += 1; logging.getLogger("a.b.%d" % n[0]).debug("x")
busy(make, 3)
time.sleep(0.1)
run_child(lambda: logging.getLogger("child").debug("x"), forks=100, gap=0.002)
