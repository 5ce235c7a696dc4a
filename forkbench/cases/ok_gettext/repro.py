#!/usr/bin/env python3
"""translations in threads

library: CPython gettext (3.x)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import gettext
busy(lambda: gettext.translation("none", fallback=True).gettext("x"), 2); time.sleep(0.05)
run_child(lambda: gettext.translation("none", fallback=True).gettext("x"), forks=50, gap=0.003)
