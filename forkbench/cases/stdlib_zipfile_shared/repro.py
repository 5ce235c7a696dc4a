#!/usr/bin/env python3
"""two threads read members of one open ZipFile

https://github.com/python/cpython/blob/main/Lib/zipfile/__init__.py
library: CPython zipfile (3.x)   expect: hang
mechanism: ZipFile._lock, an RLock around each seek and read of the shared file
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
def busy(function, threads=1, pause=0.0):           # threads that do it again and again
    def run():
        while True:
            function()
            if pause: time.sleep(pause)
    for _ in range(threads): thread(run)
import io, zipfile
b = io.BytesIO()
with zipfile.ZipFile(b, "w", zipfile.ZIP_DEFLATED) as z:
    for i in range(20): z.writestr("m%d" % i, os.urandom(200000))
z = zipfile.ZipFile(b)
def read():
    with z.open("m%d" % (time.monotonic_ns() % 20)) as f:
        f.read(1000)
        try: f.read()
        except zipfile.BadZipFile: pass
busy(read, 3); time.sleep(0.1)
run_child(read, forks=80, gap=0.002)
