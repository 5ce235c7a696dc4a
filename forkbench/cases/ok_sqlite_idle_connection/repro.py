#!/usr/bin/env python3
"""a connection of a thread's, idle

library: CPython sqlite3 (3.x)   expect: safe
mechanism: SAFE: nobody is inside SQLite
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sqlite3, tempfile
c = sqlite3.connect(tempfile.mktemp(), check_same_thread=False); c.execute("create table t(x)"); c.commit()
ev = threading.Event()
def w(): c.execute("select 1").fetchall(); ev.set(); time.sleep(100)
thread(w); ev.wait(); time.sleep(0.1)
def child():
    d = sqlite3.connect(":memory:"); d.execute("create table t(x)"); d.execute("insert into t values(1)")
run_child(child, forks=10)
