#!/usr/bin/env python3
"""a thread calls a slow peer through a circuit breaker

https://github.com/danielfm/pybreaker
library: pybreaker (1.4.1)   expect: hang
mechanism: CircuitBreaker._lock, held for the whole call
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pybreaker
breaker = pybreaker.CircuitBreaker(fail_max=5)
def call(): return breaker.call(time.sleep, 0.2)
busy(call, 2); time.sleep(0.1)
run_child(call, forks=8, gap=0.01)
