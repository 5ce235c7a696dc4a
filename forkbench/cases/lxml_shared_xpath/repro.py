#!/usr/bin/env python3
"""one compiled XPath for threads and child

library: lxml (6.1.3)   expect: hang
mechanism: the evaluation lock of the XPath object, in compiled code
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from lxml import etree
x = etree.XPath("count(//b)")
d = etree.fromstring(b"<a>" + b"<b>x</b>" * 200000 + b"</a>")
busy(lambda: x(d), 2); time.sleep(0.3)
run_child(lambda: x(d), forks=30, gap=0.005)
