#!/usr/bin/env python3
"""gevent's ThreadPool used before and after a plain os.fork()

library: gevent (26.9.0)   expect: hang
mechanism: nothing: the pool's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import gevent
from gevent.threadpool import ThreadPool
p = ThreadPool(2); p.spawn(abs, 1).get()
run_child(lambda: p.spawn(abs, -1).get())
