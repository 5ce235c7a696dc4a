#!/usr/bin/env python3
"""receivers of a signal connected and disconnected by threads

library: django (5.2.19)   expect: hang
mechanism: Signal.lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import django
from django.dispatch import Signal
s = Signal()
def recv(**k): pass
i = [0]
def w():
    i[0] += 1; s.connect(recv, dispatch_uid=i[0] % 50); s.disconnect(dispatch_uid=i[0] % 50)
busy(w, 3); time.sleep(0.3)
run_child(lambda: s.connect(recv, dispatch_uid="c"), forks=150, gap=0.003)
