#!/usr/bin/env python3
"""SharedMemory made in threads, and in a bare child

library: CPython multiprocessing (3.x)   expect: hang
mechanism: ResourceTracker._lock, of a thread in register() or unregister()
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from multiprocessing import shared_memory
def w():
    s = shared_memory.SharedMemory(create=True, size=100); s.close(); s.unlink()
w()
busy(w, 3); time.sleep(0.1)
run_child(w, forks=150, gap=0.002)
