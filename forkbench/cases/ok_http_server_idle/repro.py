#!/usr/bin/env python3
"""an HTTP server that waits for connections

library: CPython http.server (3.x)   expect: safe
mechanism: SAFE: the child only closes its socket
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import http.server
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
thread(s.serve_forever); time.sleep(0.2)
run_child(lambda: s.socket.close(), forks=5)
