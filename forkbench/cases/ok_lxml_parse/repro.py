#!/usr/bin/env python3
"""documents parsed in threads

library: lxml (6.1.3)   expect: safe
mechanism: SAFE: each thread has a parser of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from lxml import etree
t = b"<a>" + b"<b>x</b>" * 20000 + b"</a>"
busy(lambda: etree.fromstring(t), 2); time.sleep(0.3)
run_child(lambda: etree.fromstring(b"<a/>"), forks=20, gap=0.01)
