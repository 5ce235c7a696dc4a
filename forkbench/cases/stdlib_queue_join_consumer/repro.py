#!/usr/bin/env python3
"""queue.Queue.join() in a child, whose consumer is a thread of the parent

library: CPython queue (3.x)   expect: hang
mechanism: nothing: the consumer
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import queue
q = queue.Queue()
def consume():
    while True: q.get(); q.task_done()
thread(consume); q.put(1); q.join()
def child(): q.put(2); q.join()
run_child(child)
