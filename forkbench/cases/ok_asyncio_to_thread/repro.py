#!/usr/bin/env python3
"""asyncio.to_thread in a thread's own loop, and in the child's

library: CPython asyncio (3.x)   expect: safe
mechanism: SAFE: the child makes its own loop and executor
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import asyncio
async def main():
    await asyncio.to_thread(time.sleep, 0.01)
def loop(): asyncio.run(main())
busy(loop, 1, 0.001); time.sleep(0.2)
run_child(loop, forks=20, gap=0.005)
