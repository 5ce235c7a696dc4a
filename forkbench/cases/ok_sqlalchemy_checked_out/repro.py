#!/usr/bin/env python3
"""a connection that a thread has taken

library: sqlalchemy (2.1.9)   expect: safe
mechanism: SAFE: the pool's lock is free; the child disposes of it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sqlalchemy as sa
e = sa.create_engine("sqlite://", poolclass=sa.pool.QueuePool, pool_size=2, connect_args={"check_same_thread": False})
def w():
    with e.connect() as c: c.execute(sa.text("select 1")); time.sleep(100)
thread(w); time.sleep(0.3)
def child():
    e.dispose(close=False)
    with e.connect() as c: c.execute(sa.text("select 1"))
run_child(child, forks=5)
