#!/usr/bin/env python3
"""a thread waits for the answer to its request

library: httpx (0.28.1)   expect: safe
mechanism: SAFE: the child sends nothing with that client
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import httpx, socket
srv = socket.create_server(("127.0.0.1", 0))
c = httpx.Client(timeout=None)
def w():
    try: c.get("http://127.0.0.1:%d/" % srv.getsockname()[1])
    except Exception: pass
thread(w); time.sleep(0.5)
run_child(lambda: c.build_request("GET", "http://a/"), forks=5)
