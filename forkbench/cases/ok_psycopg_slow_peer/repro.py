#!/usr/bin/env python3
"""a thread waits for a slow PostgreSQL server

library: psycopg (3.3.9)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import psycopg, socket
srv = socket.create_server(("127.0.0.1", 0))
def w():
    try: psycopg.connect("host=127.0.0.1 port=%d user=a dbname=b" % srv.getsockname()[1])
    except Exception: pass
thread(w); time.sleep(0.3)
run_child(lambda: psycopg.sql.SQL("select 1").as_string(), forks=5)
