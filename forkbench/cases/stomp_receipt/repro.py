#!/usr/bin/env python3
"""a receipt waited for over a connection of the parent's

library: stomp.py (9.0.0)   expect: hang
mechanism: nothing: the connection's receiver
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
from stomp_peer import ask, connected
del sys.path[0]

# --- case ------------------------------------------------------------------
c = connected(); ask(c, "1")
run_child(lambda: ask(c, "2"))
