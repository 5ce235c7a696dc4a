#!/usr/bin/env python3
"""eventlet.tpool.execute in a child of a process that has used it

library: eventlet (0.41.3)   expect: hang
mechanism: nothing: the pool's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from eventlet import tpool
tpool.execute(abs, 1)
run_child(lambda: tpool.execute(abs, 1))
