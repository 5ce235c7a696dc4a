#!/usr/bin/env python3
"""names looked up under gevent's monkey patches

library: gevent (26.9.0)   expect: safe
mechanism: SAFE: gevent's fork makes the pool anew
"""
from gevent import monkey; monkey.patch_all()
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import socket
socket.getaddrinfo("localhost", 80)
def child():
    time.sleep(0.3)   # gevent does not learn of a child that has ended before it comes to watch for one
    socket.getaddrinfo("localhost", 80)
run_child(child, forks=5, gap=0.01)
