#!/usr/bin/env python3
"""an aiohttp session in a thread's loop

library: aiohttp (3.14.5)   expect: safe
mechanism: SAFE: the child runs its own loop
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import aiohttp, asyncio, socket
srv = socket.create_server(("127.0.0.1", 0))
async def m():
    async with aiohttp.ClientSession() as s:
        await s.get("http://127.0.0.1:%d/" % srv.getsockname()[1])
thread(lambda: asyncio.run(m())); time.sleep(0.5)
run_child(lambda: asyncio.run(asyncio.sleep(0)), forks=5)
