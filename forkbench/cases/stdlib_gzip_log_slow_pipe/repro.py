#!/usr/bin/env python3
"""a GzipFile written to a slow pipe

library: CPython gzip (3.x)   expect: hang
mechanism: the BufferedWriter's own lock, of the thread that writes into a full pipe
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import gzip, tempfile
r, w = os.pipe()
def reader():
    while True: os.read(r, 4096); time.sleep(0.002)
thread(reader)
g = gzip.GzipFile(fileobj=open(w, "wb", closefd=False), mode="wb", compresslevel=1)
def wr(): g.write(os.urandom(50000))
busy(wr, 1); time.sleep(0.3)
run_child(lambda: g.write(os.urandom(50000)), forks=10, gap=0.01)
