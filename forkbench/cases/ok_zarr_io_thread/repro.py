#!/usr/bin/env python3
"""arrays of zarr, whose loop runs in a thread, read by parent and child

library: zarr (3.1.6)   expect: safe
mechanism: SAFE: an at-fork hook of the library's lets the child start a loop of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zarr
z = zarr.create_array({}, shape=(100,), chunks=(10,), dtype="i4"); z[:] = 1
def child(): assert z[:].sum() == 100
run_child(child, forks=3)
