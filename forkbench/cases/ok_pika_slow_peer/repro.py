#!/usr/bin/env python3
"""a thread waits for a slow RabbitMQ

library: pika (1.4.4)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pika, socket
srv = socket.create_server(("127.0.0.1", 0))
def w():
    try: pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", srv.getsockname()[1]))
    except Exception: pass
thread(w); time.sleep(0.5)
run_child(lambda: None, forks=5)
