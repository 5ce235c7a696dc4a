#!/usr/bin/env python3
"""a subprocess polled by threads and by the child

library: CPython subprocess (3.x)   expect: safe
mechanism: SAFE: poll() does not wait for its lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import subprocess
p = subprocess.Popen(["sleep", "30"])
first_say = say
def say(line, status): p.kill(); first_say(line, status)
busy(p.poll, 2); time.sleep(0.1)
run_child(lambda: p.poll(), forks=50, gap=0.003)
