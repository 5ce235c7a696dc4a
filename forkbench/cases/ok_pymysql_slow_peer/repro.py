#!/usr/bin/env python3
"""a thread waits for the greeting of a slow MySQL server

library: pymysql (1.2.4)   expect: safe
mechanism: SAFE: the file of the socket is in the connection that it is making
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pymysql, socket
srv = socket.create_server(("127.0.0.1", 0))
def w():
    try: pymysql.connect(host="127.0.0.1", port=srv.getsockname()[1], user="a")
    except Exception: pass
thread(w); time.sleep(0.3)
run_child(lambda: pymysql.converters.escape_item("a", "utf8"), forks=5)
