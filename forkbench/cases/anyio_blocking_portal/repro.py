#!/usr/bin/env python3
"""a blocking portal of the parent's, called in a child

library: anyio (4.16.0)   expect: hang
mechanism: nothing: the portal's event loop
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import anyio.from_thread
cm = anyio.from_thread.start_blocking_portal(); p = cm.__enter__()
p.call(anyio.sleep, 0)
run_child(lambda: p.call(anyio.sleep, 0))
