#!/usr/bin/env python3
"""an open pool that tries to connect

library: psycopg-pool (3.3.9)   expect: safe
mechanism: SAFE: the child does not use it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import psycopg_pool, socket, logging
logging.disable(50)
srv = socket.create_server(("127.0.0.1", 0))
pool = psycopg_pool.ConnectionPool("host=127.0.0.1 port=%d user=a dbname=b" % srv.getsockname()[1], min_size=1, open=True, timeout=0.2)
time.sleep(0.5)
run_child(lambda: None, forks=5)
