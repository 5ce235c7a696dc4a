#!/usr/bin/env python3
"""tasks sent by threads through Celery's memory broker

library: celery (5.7.0)   expect: hang
mechanism: a lock of kombu's connection and producer pools
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import celery
app = celery.Celery("a", broker="memory://", backend="cache+memory://")
@app.task
def add(x): return x
busy(lambda: add.delay(1), 3); time.sleep(0.5)
run_child(lambda: add.delay(2), forks=150, gap=0.003)
