#!/usr/bin/env python3
"""a compressor with threads of its own, used before the fork and in the child

https://github.com/indygreg/python-zstandard
library: zstandard (0.25.0)   expect: hang
mechanism: zstd's pool of threads lost in the child
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zstandard
c = zstandard.ZstdCompressor(level=3, threads=4); data = os.urandom(5_000_000) * 2
c.compress(data)
run_child(lambda: c.compress(data))
