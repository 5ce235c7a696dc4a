#!/usr/bin/env python3
"""requests handled in threads

library: flask (3.1.3)   expect: safe
mechanism: SAFE: no lock once the first request is over
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import flask
app = flask.Flask("a")
@app.get("/")
def r(): return "x"
busy(lambda: app.test_client().get("/"), 2, 0.001); time.sleep(0.3)
run_child(lambda: app.test_client().get("/"), forks=20, gap=0.005)
