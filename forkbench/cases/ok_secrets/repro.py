#!/usr/bin/env python3
"""tokens by secrets in threads

library: CPython secrets (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import random, secrets
busy(secrets.token_hex, 3); time.sleep(0.1)
run_child(secrets.token_hex, forks=100, gap=0.002)
