#!/usr/bin/env python3
"""syslog.syslog() from three threads

library: CPython syslog / glibc (3.x)   expect: hang
mechanism: glibc's syslog lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import syslog
busy(lambda: syslog.syslog(7, "forkproof test"), 3); time.sleep(0.1)
run_child(lambda: syslog.syslog(7, "c"), forks=200, gap=0.002)
