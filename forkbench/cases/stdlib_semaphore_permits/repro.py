#!/usr/bin/env python3
"""both permits of a BoundedSemaphore with threads of the parent

library: CPython threading (3.x)   expect: hang
mechanism: two permits, which nobody gives back in the child
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
s = threading.BoundedSemaphore(2)
def w():
    with s: time.sleep(0.05)
busy(w, 2); time.sleep(0.02)
def child():
    with s: pass
run_child(child, forks=30, gap=0.004)
