#!/usr/bin/env python3
"""the metrics' HTTP server, idle

library: prometheus_client (0.26.0)   expect: safe
mechanism: SAFE: the child counts up, the lock is free
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import prometheus_client as pc
pc.start_http_server(0, "127.0.0.1"); c = pc.Counter("c", "c"); time.sleep(0.3)
run_child(lambda: c.inc(), forks=5)
