#!/usr/bin/env python3
"""a compressor that a thread is in with much data

https://github.com/python/cpython/blob/main/Modules/zlibmodule.c
library: CPython zlib (3.x)   expect: hang
mechanism: the compressor's own lock; a whole call takes longer than a fork waits
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zlib, random
c = zlib.compressobj(9); data = random.Random(1).randbytes(60_000_000)
thread(c.compress, data); time.sleep(0.15)
run_child(lambda: c.compress(b"x"))
