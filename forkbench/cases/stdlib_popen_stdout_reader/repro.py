#!/usr/bin/env python3
"""a thread reads a subprocess's output; the child closes the pipe

library: CPython subprocess (3.x)   expect: hang
mechanism: the BufferedReader's own lock, of the thread that waits for output
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import subprocess
p = subprocess.Popen(["sleep", "30"], stdout=subprocess.PIPE)
first_say = say
def say(line, status): p.kill(); first_say(line, status)
def rd():
    for l in p.stdout: pass
thread(rd); time.sleep(0.2)
run_child(lambda: p.stdout.close(), forks=2)
