#!/usr/bin/env python3
"""a thread follows the daemon's events; the child makes a client of its own

library: docker (7.2.0)   expect: safe
mechanism: SAFE: its connection is the thread's own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile
import docker, socket, socketserver, http.server
path = tempfile.mktemp()
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def address_string(self): return "x"
    def log_message(self, *a): pass
    def do_GET(self):
        if "events" in self.path:
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            while True: self.wfile.write(b"c\r\n{\"a\": \"b\"}\r\n\r\n"); self.wfile.flush(); time.sleep(0.3)
        body = b'{"ApiVersion": "1.44", "Version": "25"}' if "version" in self.path else b"OK"
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
class U(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
server = U(path, H); thread(server.serve_forever)
client = docker.DockerClient("unix://" + path, version="1.44")
def follow():
    for e in client.events(): pass
thread(follow); time.sleep(0.8)
run_child(lambda: docker.DockerClient("unix://" + path, version="1.44").ping(), forks=4, gap=0.05)
