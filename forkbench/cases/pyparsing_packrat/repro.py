#!/usr/bin/env python3
"""a parse action takes time under pyparsing's packrat lock, which is of the whole process

https://github.com/pyparsing/pyparsing/blob/master/pyparsing/core.py
library: pyparsing (3.3.3)   expect: hang
mechanism: RLock held while a rule is parsed, its actions included
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pyparsing as pp
pp.ParserElement.enable_packrat()
def slow(t): time.sleep(0.8)
word = pp.Word(pp.alphas).set_parse_action(slow)
g = word + pp.Word(pp.nums)
thread(g.parse_string, "abc 12"); time.sleep(0.3)
n = pp.Word(pp.nums) + pp.Word(pp.nums)
run_child(lambda: n.parse_string("1 2"))
