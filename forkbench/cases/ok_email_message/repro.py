#!/usr/bin/env python3
"""messages built in threads

library: CPython email (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import email.message
def w():
    m = email.message.EmailMessage(); m["subject"] = "a"; m.set_content("x"); m.as_bytes()
busy(w, 2); time.sleep(0.2)
run_child(w, forks=30, gap=0.005)
