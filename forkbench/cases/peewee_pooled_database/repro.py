#!/usr/bin/env python3
"""a pooled database that threads connect to and close

library: peewee (4.5.3)   expect: hang
mechanism: PooledDatabase._pool_lock, or the database's lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from playhouse.pool import PooledSqliteDatabase
import tempfile
db = PooledSqliteDatabase(tempfile.mktemp(), max_connections=8)
def w(): db.connect(reuse_if_open=True); db.close()
busy(w, 4); time.sleep(0.2)
run_child(w, forks=150, gap=0.003)
