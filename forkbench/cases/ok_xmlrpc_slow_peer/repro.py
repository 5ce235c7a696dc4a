#!/usr/bin/env python3
"""a thread waits for the answer of a slow XML-RPC server

library: CPython xmlrpc (3.x)   expect: safe
mechanism: SAFE: the file of the socket that it waits on is in that thread's variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import xmlrpc.client, socket
srv = socket.create_server(("127.0.0.1", 0))
p = xmlrpc.client.ServerProxy("http://127.0.0.1:%d/" % srv.getsockname()[1])
def w():
    try: p.ping()
    except Exception: pass
thread(w); time.sleep(0.3)
run_child(lambda: xmlrpc.client.dumps((1,), "x"), forks=10)
