#!/usr/bin/env python3
"""an event handler of watchdog is at work; the child takes the observer apart

https://github.com/gorakhargosh/watchdog/blob/master/src/watchdog/observers/api.py
library: watchdog (7.1.0)   expect: hang
mechanism: RLock held while handlers run
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile
from watchdog.observers import Observer
from watchdog.events import FileSystemEventHandler
d = tempfile.mkdtemp(); inside = threading.Event()
class H(FileSystemEventHandler):
    def on_any_event(self, e): inside.set(); time.sleep(1.5)
o = Observer(); o.schedule(H(), d); o.start(); time.sleep(0.2)
open(d + "/f", "w").close(); inside.wait()
run_child(o.unschedule_all)
