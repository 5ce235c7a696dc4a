#!/usr/bin/env python3
"""patterns compiled in threads

library: CPython re (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import re
i = [0]
def w(): i[0] += 1; re.compile("a%d" % i[0])
busy(w, 2); time.sleep(0.1)
run_child(lambda: re.compile("child.*"), forks=50, gap=0.003)
