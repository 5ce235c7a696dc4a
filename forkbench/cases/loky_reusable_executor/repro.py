#!/usr/bin/env python3
"""loky's reusable executor used in a child

library: loky (3.7.0)   expect: hang
mechanism: nothing: the manager's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import loky
e = loky.get_reusable_executor(1); e.submit(abs, 1).result()
run_child(lambda: e.submit(abs, 1).result())
