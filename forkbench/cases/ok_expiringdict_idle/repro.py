#!/usr/bin/env python3
"""an ExpiringDict that nobody is in

library: expiringdict (1.2.2)   expect: safe
mechanism: SAFE: its lock is free
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from expiringdict import ExpiringDict
d = ExpiringDict(max_len=100, max_age_seconds=10); d[1] = 1
thread(lambda: [d.get(1), time.sleep(1000)]); time.sleep(0.1)
run_child(lambda: d.get(1), forks=5)
