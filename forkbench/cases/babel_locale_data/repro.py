#!/usr/bin/env python3
"""locales loaded by threads

library: babel (2.18.0)   expect: hang
mechanism: babel.localedata._cache_lock, held while a locale's file is read
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import babel.localedata
ls = babel.localedata.locale_identifiers()
def w():
    for l in ls: babel.localedata._cache.clear(); babel.localedata.load(l)
busy(lambda: [babel.localedata.load(l) for l in ls], 2); time.sleep(0.1)
run_child(lambda: [babel.localedata.load(l) for l in ls[:40]], forks=30, gap=0.005)
