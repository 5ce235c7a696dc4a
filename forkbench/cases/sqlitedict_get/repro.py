#!/usr/bin/env python3
"""a value from a database of the parent's

library: sqlitedict (2.1.0)   expect: hang
mechanism: nothing: the database's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile, sqlitedict
name = os.path.join(tempfile.mkdtemp(), "a.db")
d = sqlitedict.SqliteDict(name, autocommit=True); d["a"] = 1; d["a"]
run_child(lambda: d["a"])
