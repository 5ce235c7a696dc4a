#!/usr/bin/env python3
"""logging to a slow pipe through a MemoryHandler

library: CPython logging (3.x)   expect: hang
mechanism: the BufferedWriter's own lock, of a thread that flushes the handler into a full pipe; logging renews its own locks, not this one
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import logging, logging.handlers
r, w = os.pipe()
target = logging.StreamHandler(open(w, "w", closefd=False))
h = logging.handlers.MemoryHandler(10, target=target)
log = logging.getLogger("m"); log.addHandler(h); log.setLevel(10)
def reader():
    while True: os.read(r, 4096); time.sleep(0.002)
thread(reader)
busy(lambda: log.info("y" * 3000), 2)
time.sleep(0.3)
run_child(lambda: [log.info("child") for _ in range(20)], forks=20, gap=0.005)
