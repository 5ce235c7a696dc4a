#!/usr/bin/env python3
"""fsspec's loop runs in a thread, and the child asks fsspec too

https://github.com/fsspec/filesystem_spec/blob/master/fsspec/asyn.py
library: fsspec (2026.9.0, 3.14.5)   expect: safe
mechanism: SAFE: its at-fork hook lets the child start a loop of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import fsspec, http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H); thread(server.serve_forever)
url = "http://127.0.0.1:%d/a" % server.server_address[1]
def ask(): assert fsspec.filesystem("http", skip_instance_cache=True).cat(url) == b"ok"
ask(); time.sleep(0.2)
run_child(ask, forks=3)
