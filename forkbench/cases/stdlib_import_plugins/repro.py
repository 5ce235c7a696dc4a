#!/usr/bin/env python3
"""plugins imported in a thread while the program forks

library: CPython importlib (3.x)   expect: hang
mechanism: the module lock of the plugin that is being imported
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import importlib, tempfile
d = tempfile.mkdtemp(); sys.path.insert(0, d)
for i in range(400):
    open(os.path.join(d, "plug%d.py" % i), "w").write("import time; time.sleep(0.002)\nX=%d\n" % i)
importlib.invalidate_caches()
def w():
    for i in range(400): importlib.import_module("plug%d" % i)
thread(w); time.sleep(0.1)
def child():
    for i in range(400): importlib.import_module("plug%d" % i)
run_child(lambda: importlib.import_module("plug%d" % max(int(m[4:]) for m in list(sys.modules) if m.startswith("plug"))), forks=20, gap=0.01)
