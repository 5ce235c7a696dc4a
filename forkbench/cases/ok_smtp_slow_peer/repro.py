#!/usr/bin/env python3
"""a thread waits for the greeting of a slow mail server

library: CPython smtplib (3.x)   expect: safe
mechanism: SAFE: the file of the socket that it waits on is in the connection that it is making
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import smtplib, socket
srv = socket.create_server(("127.0.0.1", 0))
def w():
    smtplib.SMTP("127.0.0.1", srv.getsockname()[1])
thread(w); time.sleep(0.3)
run_child(lambda: smtplib.SMTP(), forks=3)
