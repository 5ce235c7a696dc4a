#!/usr/bin/env python3
"""an ExpiringDict that threads and the child use

https://github.com/mailgun/expiringdict/blob/master/expiringdict/__init__.py
library: expiringdict (1.2.2)   expect: hang
mechanism: RLock of the dict, contended
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from expiringdict import ExpiringDict
d = ExpiringDict(max_len=100, max_age_seconds=10)
def work():
    for i in range(200): d[i] = i; d.get(i)
busy(work, 3); time.sleep(0.1)
run_child(work, forks=200)
