#!/usr/bin/env python3
"""a thread makes a slow singleton

https://github.com/python-injector/injector
library: injector (0.24.0)   expect: hang
mechanism: injector's lock, of all singletons of the process
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import injector
class Slow:
    def __init__(self): time.sleep(0.7)
class Other: pass
def configure(binder):
    binder.bind(Slow, scope=injector.singleton); binder.bind(Other, scope=injector.singleton)
i = injector.Injector(configure)
thread(lambda: i.get(Slow)); time.sleep(0.1)
run_child(lambda: i.get(Other))
