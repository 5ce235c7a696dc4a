#!/usr/bin/env python3
"""a reactor in a thread

library: twisted (26.10.0)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from twisted.internet import reactor
thread(reactor.run, False); time.sleep(0.5)
run_child(lambda: None, forks=5)
