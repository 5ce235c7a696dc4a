#!/usr/bin/env python3
"""a thread writes within a db_session (SQLite)

https://github.com/ponyorm/pony/blob/orm/pony/orm/dbproviders/sqlite.py
library: Pony ORM (0.7.20)   expect: hang
mechanism: SQLiteProvider.transaction_lock, from the first write to the commit
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile
from pony.orm import Database, Required, db_session
db = Database("sqlite", tempfile.mktemp(), create_db=True)
class Row(db.Entity): n = Required(int)
db.generate_mapping(create_tables=True)
@db_session
def write(): r = Row(n=1); db.flush(); time.sleep(0.05)
busy(write); time.sleep(0.2)
run_child(write, forks=15, gap=0.01)
