#!/usr/bin/env python3
"""tracebacks formatted in threads

library: CPython linecache (3.x)   expect: safe
mechanism: SAFE: the source files that they read are in their own variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import traceback, linecache
def w():
    try: 1 / 0
    except Exception: traceback.format_exc(); linecache.clearcache()
busy(w, 3); time.sleep(0.1)
run_child(w, forks=100, gap=0.003)
