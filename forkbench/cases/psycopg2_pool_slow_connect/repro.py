#!/usr/bin/env python3
"""a thread connects by a ThreadedConnectionPool to a server that is slow

https://github.com/psycopg/psycopg2/blob/master/lib/pool.py
library: psycopg2 (2.9.13)   expect: hang
mechanism: AbstractConnectionPool._lock, held while it connects
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import psycopg2.pool, socket
s = socket.create_server(("127.0.0.1", 0), backlog=100)
def serve():
    def one(c): time.sleep(0.3); c.close()
    while True: thread(one, s.accept()[0])
thread(serve)
pool = psycopg2.pool.ThreadedConnectionPool(0, 5, host="127.0.0.1", port=s.getsockname()[1], user="u", dbname="d", sslmode="disable", gssencmode="disable")
def use():
    try: pool.getconn()
    except psycopg2.Error: pass
busy(use, 2); time.sleep(0.1)
run_child(use, forks=8, gap=0.01)
