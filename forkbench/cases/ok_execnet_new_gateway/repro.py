#!/usr/bin/env python3
"""a gateway of the parent's, and one of the child's own

library: execnet (2.1.2)   expect: safe
mechanism: SAFE: the child has a receiver of its own
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import execnet
gw = execnet.makegateway("popen")
ch = gw.remote_exec("while 1: channel.send(channel.receive())"); ch.send(1); ch.receive()
def child():
    own = execnet.makegateway("popen"); own.remote_exec("channel.send(1)").receive(); time.sleep(2)
run_child(child)
