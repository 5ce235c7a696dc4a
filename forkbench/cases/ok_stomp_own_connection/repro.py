#!/usr/bin/env python3
"""a connection of the parent's, and one of the child's own

library: stomp.py (9.0.0)   expect: safe
mechanism: SAFE: the child has a receiver of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import socket, stomp
from stomp.listener import WaitingListener
s = socket.create_server(("127.0.0.1", 0))
def serve(c):
    buf = b""
    while data := c.recv(4096):
        *frames, buf = (buf + data).split(b"\0")
        for frame in frames:
            if frame.lstrip(b"\n").startswith((b"STOMP", b"CONNECT")): c.sendall(b"CONNECTED\nversion:1.1\n\n\0")
            for line in frame.split(b"\n"):
                if line.startswith(b"receipt:"): c.sendall(b"RECEIPT\nreceipt-id:" + line[8:] + b"\n\n\0")
def accept():
    while True: thread(serve, s.accept()[0])
thread(accept)
def connected():
    c = stomp.Connection([("127.0.0.1", s.getsockname()[1])]); c.connect(wait=True)
    return c
def ask(c, receipt):
    listener = WaitingListener(receipt); c.set_listener(receipt, listener)
    c.send("/queue/a", "x", receipt=receipt); listener.wait_on_receipt()
c = connected(); ask(c, "1")
run_child(lambda: (ask(connected(), "2"), time.sleep(2)))
