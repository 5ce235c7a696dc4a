#!/usr/bin/env python3
"""messages put into kombu's memory transport by threads

library: kombu (5.7.0)   expect: hang
mechanism: a mutex of the transport's queues
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import kombu
c = kombu.Connection("memory://")
q = c.SimpleQueue("q")
def prod():
    with kombu.Connection("memory://") as d: d.SimpleQueue("q").put("x")
busy(prod, 3); time.sleep(0.3)
run_child(prod, forks=150, gap=0.003)
