#!/usr/bin/env python3
"""join() of a queue whose worker runs in the parent

library: dramatiq (2.2.1)   expect: hang
mechanism: nothing: the worker's threads
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
w = dramatiq.Worker(b, worker_threads=2); w.start(); f.send(1); b.join(f.queue_name)
def child(): f.send(2); b.join(f.queue_name)
run_child(child)
