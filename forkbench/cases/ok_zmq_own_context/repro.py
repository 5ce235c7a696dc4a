#!/usr/bin/env python3
"""a socket of the parent's, and a context of the child's own

library: pyzmq (27.3.0)   expect: safe
mechanism: SAFE: the child has ZeroMQ threads of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
import zmq
from zmq_peer import ask, asking, context
del sys.path[0]

# --- case ------------------------------------------------------------------
req = asking(context); ask(req)
run_child(lambda: (ask(asking(zmq.Context())), time.sleep(2)))
