#!/usr/bin/env python3
"""tables parsed in a thread with Arrow's pools

library: pyarrow (26.0.1)   expect: safe
mechanism: SAFE: the child does not use Arrow
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pyarrow.csv as pc, io
t = b"a,b\n" + b"1,2\n" * 20000
busy(lambda: pc.read_csv(io.BytesIO(t)), 1); time.sleep(0.5)
run_child(lambda: None, forks=10, gap=0.01)
