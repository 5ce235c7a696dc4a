#!/usr/bin/env python3
"""a thread waits in BLPOP

library: redis (8.1.0)   expect: safe
mechanism: SAFE: the child makes its own client
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import redis, socket
srv = socket.create_server(("127.0.0.1", 0))
r = redis.Redis(port=srv.getsockname()[1], protocol=2)
def w():
    try: r.blpop("q")
    except Exception: pass
thread(w); time.sleep(0.3)
def child():
    redis.Redis(port=1)
run_child(child, forks=5)
