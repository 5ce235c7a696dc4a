#!/usr/bin/env python3
"""a database of RocksDB that parent and child flush

https://github.com/rocksdict/RocksDict
library: rocksdict (0.3.29)   expect: hang
mechanism: RocksDB's background threads lost in the child
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import rocksdict, tempfile
db = rocksdict.Rdict(tempfile.mkdtemp() + "/db")
def f():
    for i in range(1000): db["k%d" % i] = "v"
    db.flush()
f()
run_child(f)
