#!/usr/bin/env python3
"""records sent by a SocketHandler in threads

library: CPython logging (3.x)   expect: safe
mechanism: SAFE: logging renews its own locks, a socket has none
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import logging, logging.handlers, socket
srv = socket.create_server(("127.0.0.1", 0))
def serve():
    c, _ = srv.accept()
    while True: c.recv(100000)
thread(serve)
h = logging.handlers.SocketHandler("127.0.0.1", srv.getsockname()[1])
log = logging.getLogger("s"); log.addHandler(h); log.setLevel(10)
busy(lambda: log.info("x" * 100), 2, 0.001)
time.sleep(0.1)
run_child(lambda: log.info("c"), forks=30, gap=0.005)
