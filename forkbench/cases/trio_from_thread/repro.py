#!/usr/bin/env python3
"""trio.from_thread.run in a child, for a loop of the parent's

library: trio (0.35.0)   expect: hang
mechanism: nothing: the loop's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import trio
tok = []
async def m():
    tok.append(trio.lowlevel.current_trio_token()); await trio.sleep_forever()
thread(lambda: trio.run(m)); time.sleep(0.5)
async def f(): return 1
trio.from_thread.run(f, trio_token=tok[0])
run_child(lambda: trio.from_thread.run(f, trio_token=tok[0]))
