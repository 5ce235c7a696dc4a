#!/usr/bin/env python3
"""uuid1() in threads

library: CPython uuid (3.x)   expect: safe
mechanism: SAFE: no lock of the process's
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import uuid
busy(uuid.uuid1, 3); time.sleep(0.1)
run_child(uuid.uuid1, forks=100, gap=0.002)
