#!/usr/bin/env python3
"""a file that the parent has begun to read

library: rapidgzip (0.16.2)   expect: hang
mechanism: nothing: rapidgzip's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import gzip, tempfile, rapidgzip
f = tempfile.NamedTemporaryFile(suffix=".gz"); f.write(gzip.compress(os.urandom(3_000_000), 1) * 10); f.flush()
r = rapidgzip.open(f.name, parallelization=2); r.read(1_000_000)
run_child(lambda: r.read(20_000_000))
