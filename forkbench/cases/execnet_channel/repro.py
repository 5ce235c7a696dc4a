#!/usr/bin/env python3
"""a question over a channel of the parent's

library: execnet (2.1.2)   expect: hang
mechanism: nothing: the gateway's receiver
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import execnet
gw = execnet.makegateway("popen")
ch = gw.remote_exec("while 1: channel.send(channel.receive())"); ch.send(1); ch.receive()
def child(): ch.send(2); ch.receive()
run_child(child)
