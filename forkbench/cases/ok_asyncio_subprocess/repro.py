#!/usr/bin/env python3
"""a subprocess awaited in a thread's loop

library: CPython asyncio (3.x)   expect: safe
mechanism: SAFE: the child does nothing with it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import asyncio
async def m():
    p = await asyncio.create_subprocess_exec("sleep", "0.05"); await p.wait()
thread(lambda: asyncio.run(m())); time.sleep(0.02)
run_child(lambda: None, forks=5, gap=0.01)
