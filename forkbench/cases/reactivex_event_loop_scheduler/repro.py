#!/usr/bin/env python3
"""RxPY's EventLoopScheduler used before and after the fork

library: reactivex (6.1.0)   expect: hang
mechanism: nothing: the scheduler's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import reactivex, reactivex.scheduler as s
es = s.EventLoopScheduler()
def once():
    e = threading.Event(); es.schedule(lambda *a: e.set()); e.wait()
once()
run_child(once)
