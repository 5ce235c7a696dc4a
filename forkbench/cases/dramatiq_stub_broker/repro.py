#!/usr/bin/env python3
"""actors sent to dramatiq's stub broker by threads

library: dramatiq (2.2.1)   expect: hang
mechanism: the mutex of the broker's queue
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import dramatiq
from dramatiq.brokers.stub import StubBroker
b = StubBroker(); dramatiq.set_broker(b)
@dramatiq.actor
def f(x): pass
busy(lambda: f.send(1), 3); time.sleep(0.3)
run_child(lambda: f.send(2), forks=150, gap=0.003)
