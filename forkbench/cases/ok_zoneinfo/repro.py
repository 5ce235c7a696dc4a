#!/usr/bin/env python3
"""time zones loaded by threads and by the child

library: CPython zoneinfo (3.x)   expect: safe
mechanism: SAFE: files are each thread's own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import zoneinfo
busy(lambda: [zoneinfo.ZoneInfo.no_cache(n) for n in ("Europe/Paris", "Asia/Tokyo", "America/Lima")], 2); time.sleep(0.2)
run_child(lambda: zoneinfo.ZoneInfo("Asia/Seoul").utcoffset(None), forks=40, gap=0.003)
