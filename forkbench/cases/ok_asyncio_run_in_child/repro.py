#!/usr/bin/env python3
"""a loop in a thread; the child runs its own

library: CPython asyncio (3.x)   expect: safe
mechanism: SAFE: the child does not use the parent's loop
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import asyncio
loop = asyncio.new_event_loop()
thread(loop.run_forever); time.sleep(0.1)
async def f(): return 1
asyncio.run_coroutine_threadsafe(f(), loop).result()
run_child(lambda: asyncio.run(f()), forks=5)
