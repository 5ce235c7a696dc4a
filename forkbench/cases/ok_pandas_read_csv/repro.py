#!/usr/bin/env python3
"""tables parsed in threads

library: pandas (3.1.1)   expect: safe
mechanism: SAFE: no lock that a child could want
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pandas as pd, io
t = "a,b\n" + "1,2\n" * 20000
busy(lambda: pd.read_csv(io.StringIO(t)), 2); time.sleep(0.5)
run_child(lambda: pd.read_csv(io.StringIO("a\n1\n")), forks=10, gap=0.01)
