#!/usr/bin/env python3
"""a blocking portal; the child runs its own loop

library: anyio (4.16.0)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import anyio.from_thread, anyio
cm = anyio.from_thread.start_blocking_portal(); p = cm.__enter__()
p.call(anyio.sleep, 0)
run_child(lambda: anyio.run(anyio.sleep, 0), forks=3)
