#!/usr/bin/env python3
"""a queue.SimpleQueue used by threads and by the child

library: CPython queue (3.x)   expect: safe
mechanism: SAFE: its lock is never held without the GIL by those who put
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import queue
q = queue.SimpleQueue()
busy(lambda: q.put(1), 1, 0.001); busy(q.get, 2); time.sleep(0.1)
run_child(lambda: q.put(1), forks=100, gap=0.002)
