#!/usr/bin/env python3
"""publish in a child, by a client whose loop runs in the parent

library: paho-mqtt (2.2.0)   expect: hang
mechanism: nothing: the loop's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import paho.mqtt.client as m, socket
srv = socket.create_server(("127.0.0.1", 0))
def serve():
    c, _ = srv.accept(); c.recv(1000); c.sendall(b"\x20\x02\x00\x00")
    while True:
        if not c.recv(1000): return
thread(serve)
c = m.Client(m.CallbackAPIVersion.VERSION2); c.connect("127.0.0.1", srv.getsockname()[1]); c.loop_start(); time.sleep(0.5)
run_child(lambda: c.publish("a", "b", qos=1).wait_for_publish())
