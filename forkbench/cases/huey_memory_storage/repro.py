#!/usr/bin/env python3
"""tasks queued and taken in huey's memory storage by threads

library: huey (3.5.4)   expect: hang
mechanism: MemoryStorage._lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from huey import MemoryHuey
h = MemoryHuey()
@h.task()
def f(x): return x
busy(lambda: (f(1), h.dequeue()), 3); time.sleep(0.3)
run_child(lambda: f(2), forks=150, gap=0.003)
