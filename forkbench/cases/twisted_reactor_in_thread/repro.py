#!/usr/bin/env python3
"""blockingCallFromThread in a child, for a reactor that runs in a thread of the parent

library: twisted (26.10.0)   expect: hang
mechanism: nothing: the reactor's thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from twisted.internet import reactor, threads
thread(reactor.run, False); time.sleep(0.5)
threads.blockingCallFromThread(reactor, abs, 1)
run_child(lambda: threads.blockingCallFromThread(reactor, abs, 1))
