#!/usr/bin/env python3
"""trio in a thread; the child runs its own

library: trio (0.35.0)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import trio
def w(): trio.run(trio.sleep_forever)
thread(w); time.sleep(0.3)
run_child(lambda: trio.run(trio.sleep, 0), forks=3)
