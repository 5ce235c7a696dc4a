#!/usr/bin/env python3
"""subprocesses whose output threads collect

library: CPython subprocess (3.x)   expect: safe
mechanism: SAFE: pipes are each thread's own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import subprocess
def collect():
    subprocess.Popen(["sh", "-c", "sleep 0.02; echo x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE).communicate()
busy(collect, 2); time.sleep(0.2)
run_child(lambda: subprocess.run(["true"]), forks=30, gap=0.005)
