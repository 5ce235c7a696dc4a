#!/usr/bin/env python3
"""requests by urllib in threads to a server in threads

library: CPython urllib (3.x)   expect: safe
mechanism: SAFE: the files of their sockets are in their own variables alone
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import urllib.request, http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
thread(s.serve_forever)
u = "http://127.0.0.1:%d/" % s.server_port
busy(lambda: urllib.request.urlopen(u).read(), 2); time.sleep(0.5)
run_child(lambda: urllib.request.Request(u), forks=20, gap=0.005)
