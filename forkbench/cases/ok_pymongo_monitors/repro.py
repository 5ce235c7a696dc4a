#!/usr/bin/env python3
"""a client whose monitors look for a server

library: pymongo (4.20.1)   expect: safe
mechanism: SAFE: PyMongo renews its locks and starts its monitors anew
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pymongo
c = pymongo.MongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=200)
time.sleep(0.3)
def child():
    try: c.admin.command("ping")
    except pymongo.errors.PyMongoError: pass
run_child(child, forks=3)
