#!/usr/bin/env python3
"""a question to an actor of the parent's

library: pykka (4.5.0)   expect: hang
mechanism: nothing: the actor's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import pykka
class A(pykka.ThreadingActor):
    def on_receive(self, m): return m
a = A.start(); a.ask("x")
run_child(lambda: a.ask("y"))
