#!/usr/bin/env python3
"""a threaded development server, idle

library: flask (3.1.3)   expect: safe
mechanism: SAFE: the child asks the application without it
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import flask
from werkzeug.serving import make_server
app = flask.Flask("a")
@app.get("/")
def r(): return "x"
srv = make_server("127.0.0.1", 0, app, threaded=True); thread(srv.serve_forever); time.sleep(0.3)
run_child(lambda: app.test_client().get("/"), forks=5)
