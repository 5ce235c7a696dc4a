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
def busy(function, threads=1, pause=0.0):           # threads that do it again and again
    def run():
        while True:
            function()
            if pause: time.sleep(pause)
    for _ in range(threads): thread(run)
import syslog
busy(lambda: syslog.syslog(7, "forkproof test"), 3); time.sleep(0.1)
run_child(lambda: syslog.syslog(7, "c"), forks=200, gap=0.002)
