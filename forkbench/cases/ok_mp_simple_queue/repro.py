#!/usr/bin/env python3
"""a thread waits for a multiprocessing.SimpleQueue into which the child puts

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: its lock is shared with the parent, which lives
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import multiprocessing as mp
q = mp.get_context("fork").SimpleQueue()
thread(q.get); time.sleep(0.2)
run_mp_child(lambda: q.put(1), forks=3)
