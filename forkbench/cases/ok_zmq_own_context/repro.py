#!/usr/bin/env python3
"""a socket of the parent's, and a context of the child's own

library: pyzmq (27.3.0)   expect: safe
mechanism: SAFE: the child has ZeroMQ threads of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zmq
context = zmq.Context()
rep = context.socket(zmq.REP); port = rep.bind_to_random_port("tcp://127.0.0.1")
def serve():
    while True: rep.send(rep.recv())
thread(serve)
def asking(context):
    req = context.socket(zmq.REQ); req.connect("tcp://127.0.0.1:%d" % port)
    return req
def ask(req): req.send(b"x"); return req.recv()
req = asking(context); ask(req)
run_child(lambda: (ask(asking(zmq.Context())), time.sleep(2)))
