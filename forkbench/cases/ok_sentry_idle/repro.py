#!/usr/bin/env python3
"""a client that has sent what it had

library: sentry-sdk (2.75.0)   expect: safe
mechanism: SAFE: its queue's lock is free
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import sentry_sdk
sentry_sdk.init(dsn="http://k@127.0.0.1:1/1", default_integrations=False, shutdown_timeout=0)
sentry_sdk.capture_message("x"); time.sleep(0.5)
run_child(lambda: sentry_sdk.capture_message("c"), forks=5)
