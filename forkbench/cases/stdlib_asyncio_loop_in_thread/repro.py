#!/usr/bin/env python3
"""run_coroutine_threadsafe in a child, for a loop that runs in a thread of the parent

library: CPython asyncio (3.x)   expect: hang
mechanism: nothing: the thread of the event loop
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
run_child(lambda: asyncio.run_coroutine_threadsafe(f(), loop).result())
