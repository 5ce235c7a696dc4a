#!/usr/bin/env python3
"""parse actions take time, without packrat

library: pyparsing (3.3.3)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pyparsing as pp
g = pp.Word(pp.alphas).set_parse_action(lambda t: time.sleep(0.02)) + pp.Word(pp.nums)
busy(lambda: g.parse_string("abc 12"), 2); time.sleep(0.1)
run_child(lambda: pp.Word(pp.nums).parse_string("1"), forks=20, gap=0.01)
