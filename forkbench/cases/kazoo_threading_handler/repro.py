#!/usr/bin/env python3
"""a callback queued in a child with kazoo's threading handler

library: kazoo (2.11.0)   expect: hang
mechanism: nothing: the handler's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from kazoo.handlers.threading import SequentialThreadingHandler
h = SequentialThreadingHandler(); h.start()
h.spawn(int)
r = h.async_result()
def child():
    a = h.async_result(); h.callback_queue.put(lambda: a.set(1)); a.get()
run_child(child)
