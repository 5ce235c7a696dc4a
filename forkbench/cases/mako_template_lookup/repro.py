#!/usr/bin/env python3
"""threads compile the first of many templates

https://github.com/sqlalchemy/mako/blob/main/mako/lookup.py
library: Mako (1.4.3)   expect: hang
mechanism: TemplateLookup._mutex, held while a template is compiled
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import tempfile
from mako.lookup import TemplateLookup
d = tempfile.mkdtemp()
for i in range(60): open(d + "/t%d.html" % i, "w").write("".join("%% for a%d in x:\n<b>${a%d | h}</b>\n%% endfor\n" % (k, k) for k in range(150)))
lookup = TemplateLookup(directories=[d])
def warm():
    for i in range(40): lookup.get_template("t%d.html" % i)
thread(warm); time.sleep(0.3)
run_child(lambda: lookup.get_template("t50.html"), forks=3, gap=0.05)
