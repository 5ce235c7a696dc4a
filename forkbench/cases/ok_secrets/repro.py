#!/usr/bin/env python3
"""tokens by secrets in threads

library: CPython secrets (3.x)   expect: safe
mechanism: SAFE: no lock
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
import random, secrets
busy(secrets.token_hex, 3); time.sleep(0.1)
run_child(secrets.token_hex, forks=100, gap=0.002)
