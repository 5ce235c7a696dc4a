#!/usr/bin/env python3
"""a connection of the parent's, and one of the child's own

library: stomp.py (9.0.0)   expect: safe
mechanism: SAFE: the child has a receiver of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
from stomp_peer import ask, connected
del sys.path[0]

# --- case ------------------------------------------------------------------
c = connected(); ask(c, "1")
run_child(lambda: (ask(connected(), "2"), time.sleep(2)))
