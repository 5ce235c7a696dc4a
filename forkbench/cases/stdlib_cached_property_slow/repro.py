#!/usr/bin/env python3
"""functools.cached_property computed in a thread (one lock for all instances, up to 3.11)

library: CPython functools (3.x)   expect: hang
mechanism: cached_property.lock, of a thread that computes another instance's value
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import functools
class Conf:
    @functools.cached_property
    def data(self): time.sleep(0.1); return 1
shared = type("S", (), {})()
def w():
    c = Conf(); shared.c = c; c.data
busy(w, 1); time.sleep(0.05)
run_child(lambda: Conf().data, forks=20, gap=0.01)
