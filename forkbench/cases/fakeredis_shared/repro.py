#!/usr/bin/env python3
"""one FakeStrictRedis for threads and child

library: fakeredis (2.40.0)   expect: hang
mechanism: FakeServer.lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import fakeredis
r = fakeredis.FakeStrictRedis()
busy(lambda: r.incr("a"), 3); time.sleep(0.2)
run_child(lambda: r.incr("a"), forks=150, gap=0.003)
