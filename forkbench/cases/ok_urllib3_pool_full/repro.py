#!/usr/bin/env python3
"""one thread waits for an answer, another for the connection

library: urllib3 (2.8.0)   expect: safe
mechanism: SAFE: the child does not use the pool
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import urllib3, socket
srv = socket.create_server(("127.0.0.1", 0))
pool = urllib3.PoolManager(maxsize=1, block=True)
def w():
    try: pool.request("GET", "http://127.0.0.1:%d/" % srv.getsockname()[1])
    except Exception: pass
thread(w); thread(w); time.sleep(0.5)
run_child(lambda: urllib3.util.parse_url("http://a"), forks=5)
