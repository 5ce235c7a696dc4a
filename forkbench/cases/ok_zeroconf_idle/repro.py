#!/usr/bin/env python3
"""zeroconf's loop, idle

library: zeroconf (0.154.0)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zeroconf
z = zeroconf.Zeroconf(interfaces=["127.0.0.1"]); time.sleep(0.3)
run_child(lambda: None, forks=3)
