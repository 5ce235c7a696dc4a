#!/usr/bin/env python3
"""locks and semaphores of asyncio, in a loop in a thread

library: CPython asyncio (3.x)   expect: safe
mechanism: SAFE: they are of that loop alone and no thread waits for them
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import asyncio
async def main():
    lock = asyncio.Lock(); sem = asyncio.Semaphore(2)
    async def w():
        async with sem, lock: await asyncio.sleep(0.01)
    while True: await asyncio.gather(*(w() for _ in range(5)))
thread(lambda: asyncio.run(main())); time.sleep(0.3)
run_child(lambda: asyncio.run(asyncio.sleep(0)), forks=20, gap=0.01)
