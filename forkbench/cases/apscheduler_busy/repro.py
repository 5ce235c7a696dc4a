#!/usr/bin/env python3
"""jobs every 10 ms, and threads that ask for them

library: apscheduler (3.11.3)   expect: hang
mechanism: BaseScheduler._jobstores_lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from apscheduler.schedulers.background import BackgroundScheduler
import logging; logging.disable(50)
s = BackgroundScheduler(); s.start()
for i in range(5): s.add_job(lambda: None, "interval", seconds=0.01, id=str(i))
busy(lambda: s.get_jobs(), 2); time.sleep(0.3)
run_child(lambda: s.get_jobs(), forks=150, gap=0.003)
