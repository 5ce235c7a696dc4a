#!/usr/bin/env python3
"""four threads fork, again and again, at the same time

library: CPython os (3.x)   expect: safe
mechanism: SAFE: none of them has a lock, and each child is a copy of its own thread
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
stuck = []
def forks():
    for n in range(10):
        pid = os.fork()
        if pid == 0: os._exit(0)
        for _ in range(1000):
            if os.waitpid(pid, os.WNOHANG)[0]: break
            time.sleep(0.004)
        else: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); stuck.append(pid)
threads = [thread(forks) for _ in range(4)]
for t in threads: t.join()
say("CHILD hung" if stuck else "CHILD ok", 3 if stuck else 0)
