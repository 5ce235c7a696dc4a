#!/usr/bin/env python3
"""entry points read in threads

library: CPython importlib.metadata (3.x)   expect: safe
mechanism: SAFE: files are each thread's own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import importlib.metadata as md
busy(lambda: len(md.entry_points()), 2); time.sleep(0.2)
run_child(lambda: md.version("pip"), forks=20, gap=0.005)
