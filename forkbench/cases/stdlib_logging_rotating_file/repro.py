#!/usr/bin/env python3
"""logging to a RotatingFileHandler from several threads

library: CPython logging (3.x)   expect: hang
mechanism: the BufferedWriter's own lock, of a thread in the write() to the log file
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import logging, logging.handlers, tempfile
h = logging.handlers.RotatingFileHandler(os.path.join(tempfile.mkdtemp(), "a.log"), maxBytes=2000, backupCount=2)
log = logging.getLogger("m"); log.addHandler(h); log.setLevel(10)
busy(lambda: log.info("y" * 300), 2)
time.sleep(0.1)
run_child(lambda: log.info("child"), forks=50, gap=0.005)
