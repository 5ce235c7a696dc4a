#!/usr/bin/env python3
"""a LockedMachine whose callback takes time

https://github.com/pytransitions/transitions/blob/master/transitions/extensions/locking.py
library: transitions (0.9.3)   expect: hang
mechanism: lock held, by an exit stack, while callbacks run
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from transitions.extensions import LockedMachine
class M:
    def on_enter_b(self): time.sleep(1.0)
m = M(); machine = LockedMachine(m, states=["a", "b"], initial="a", transitions=[["go", "a", "b"], ["back", "b", "a"]])
thread(m.go); time.sleep(0.3)
run_child(lambda: m.is_b() or m.go())
