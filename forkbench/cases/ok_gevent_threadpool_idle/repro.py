#!/usr/bin/env python3
"""gevent's ThreadPool, used before a plain os.fork()

library: gevent (26.9.0)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from gevent.threadpool import ThreadPool
p = ThreadPool(2); p.spawn(abs, 1).get(); time.sleep(0.1)
run_child(lambda: None, forks=10, gap=0.01)
