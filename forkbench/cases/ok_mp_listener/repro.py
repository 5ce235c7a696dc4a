#!/usr/bin/env python3
"""a Listener that waits for connections

library: CPython multiprocessing (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from multiprocessing.connection import Listener, Client
l = Listener(); thread(l.accept); time.sleep(0.1)
run_child(lambda: None, forks=3)
