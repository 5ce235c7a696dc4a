#!/usr/bin/env python3
"""an observer of watchdog that has nothing to tell

library: watchdog (7.1.0)   expect: safe
mechanism: SAFE: its lock is free between events
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile
from watchdog.observers import Observer
from watchdog.events import FileSystemEventHandler
d = tempfile.mkdtemp()
o = Observer(); o.schedule(FileSystemEventHandler(), d); o.start(); time.sleep(0.2)
run_child(lambda: None, forks=10, gap=0.01)
