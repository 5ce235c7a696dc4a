#!/usr/bin/env python3
"""an httpx.Client that several threads and a child use

library: httpx (0.28.1)   expect: hang
mechanism: httpcore's ThreadLock of the connection pool
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import httpx, socket, http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H); thread(s.serve_forever)
u = "http://127.0.0.1:%d/" % s.server_port
c = httpx.Client(timeout=3, limits=httpx.Limits(max_keepalive_connections=0))
def w():
    try: c.get(u)
    except Exception: pass
busy(w, 4); time.sleep(0.5)
def child():
    try: c.get(u)
    except Exception: pass
run_child(child, forks=150, gap=0.003)
