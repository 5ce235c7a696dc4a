#!/usr/bin/env python3
"""threads commit; between tpc_begin() and tpc_finish() the storage is locked

https://github.com/zopefoundation/ZODB
library: ZODB (6.4)   expect: hang
mechanism: the storage's _commit_lock, taken in one method and let go of in another
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile, ZODB, transaction
folder = tempfile.TemporaryDirectory()
db = ZODB.DB(os.path.join(folder.name, "data.fs"))
leave = say
def say(line, rc): folder.cleanup(); leave(line, rc)
def commit():
    tm = transaction.TransactionManager(); c = db.open(tm)
    try:
        c.root()[str(threading.get_ident())] = os.urandom(200000).hex(); tm.commit()
    except Exception: tm.abort()
    finally: c.close()
busy(commit, 2); time.sleep(0.3)
run_child(commit, forks=60, gap=0.004)
