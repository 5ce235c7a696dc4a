#!/usr/bin/env python3
"""an open synchronous client; the child does not use it

library: websockets (17.4)   expect: safe
mechanism: SAFE: its thread waits in recv()
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import websockets.sync.server, websockets.sync.client
def echo(ws):
    for m in ws: ws.send(m)
server = websockets.sync.server.serve(echo, "127.0.0.1", 0); thread(server.serve_forever)
ws = websockets.sync.client.connect("ws://127.0.0.1:%d" % server.socket.getsockname()[1])
ws.send("a"); assert ws.recv() == "a"; time.sleep(0.1)
run_child(lambda: None, forks=5, gap=0.03)
