#!/usr/bin/env python3
"""a ForkingTCPServer serves in a thread, and forks there for each request

library: CPython socketserver (3.x)   expect: safe
mechanism: SAFE: the forking thread is the one that the child has
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import socketserver, socket
class H(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"ok")
server = socketserver.ForkingTCPServer(("127.0.0.1", 0), H); thread(server.serve_forever)
thread(lambda: time.sleep(60))
for _ in range(6):
    c = socket.create_connection(server.server_address); c.settimeout(4)
    try: assert c.recv(2) == b"ok"
    except TimeoutError: say("CHILD hung", 3)
    c.close()
say("CHILD ok", 0)
