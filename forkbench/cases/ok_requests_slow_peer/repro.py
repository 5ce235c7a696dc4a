#!/usr/bin/env python3
"""a thread waits for the answer to its request

library: requests (2.34.2)   expect: safe
mechanism: SAFE: the response's file is in that thread's variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import requests, socket, idna, encodings.idna
srv = socket.create_server(("127.0.0.1", 0))
def w():
    try: requests.get("http://127.0.0.1:%d/" % srv.getsockname()[1])
    except Exception: pass
thread(w); time.sleep(0.5)
run_child(lambda: requests.Request("GET", "http://a/").prepare(), forks=5)
