#!/usr/bin/env python3
"""a thread waits for a line of standard input; the child closes it, as a daemon does

library: CPython io (3.x)   expect: hang
mechanism: the BufferedReader's own lock below sys.stdin
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
r, w = os.pipe(); os.dup2(r, 0)
sys.stdin = open(0, "r")
thread(sys.stdin.readline); time.sleep(0.1)
run_child(lambda: sys.stdin.close(), forks=2)
