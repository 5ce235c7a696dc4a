#!/usr/bin/env python3
"""a request over a socket of the parent's

library: pyzmq (27.3.0)   expect: hang
mechanism: nothing: ZeroMQ's threads
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
from zmq_peer import ask, asking, context
del sys.path[0]

# --- case ------------------------------------------------------------------
req = asking(context); ask(req)
run_child(lambda: ask(req))
