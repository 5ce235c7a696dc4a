#!/usr/bin/env python3
"""IOLoop.add_callback in a child

library: tornado (6.6.1)   expect: hang
mechanism: nothing: the loop's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tornado.ioloop, asyncio
L = []
def w():
    l = asyncio.new_event_loop(); asyncio.set_event_loop(l); L.append(tornado.ioloop.IOLoop.current()); L[0].start()
thread(w); time.sleep(0.3)
def child():
    e = threading.Event(); L[0].add_callback(e.set); e.wait()
run_child(child)
