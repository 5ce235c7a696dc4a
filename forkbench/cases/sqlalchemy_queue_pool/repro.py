#!/usr/bin/env python3
"""a QueuePool from which threads take connections

library: sqlalchemy (2.1.9)   expect: hang
mechanism: the mutex of sqlalchemy.util.queue.Queue, or the pool's overflow lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sqlalchemy as sa, tempfile
e = sa.create_engine("sqlite:///" + tempfile.mktemp(), poolclass=sa.pool.QueuePool, pool_size=2, connect_args={"check_same_thread": False})
def w():
    with e.connect() as c: pass
busy(w, 4); time.sleep(0.2)
run_child(w, forks=150, gap=0.003)
