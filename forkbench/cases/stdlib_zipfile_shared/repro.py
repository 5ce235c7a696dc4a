#!/usr/bin/env python3
"""two threads read members of one open ZipFile

https://github.com/python/cpython/blob/main/Lib/zipfile/__init__.py
library: CPython zipfile (3.x)   expect: hang
mechanism: ZipFile._lock, an RLock around each seek and read of the shared file, which takes its time
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import io, zipfile
class Remote(io.BytesIO):                           # as files on another machine are: each read takes its time
    def read(self, size=-1):
        time.sleep(0.001); return super().read(size)
b = Remote()
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
