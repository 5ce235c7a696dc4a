#!/usr/bin/env python3
"""decimals in threads

library: CPython decimal (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import decimal
busy(lambda: decimal.Decimal(2).sqrt(), 3); time.sleep(0.1)
run_child(lambda: decimal.Decimal(3).sqrt(), forks=50, gap=0.003)
