#!/usr/bin/env python3
"""a Timer that waits

library: CPython threading (3.x)   expect: safe
mechanism: SAFE: a thread in wait() has let go of the lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
t = threading.Timer(60, print); t.daemon = True; t.start(); time.sleep(0.1)
run_child(lambda: sum([1]), forks=5)
