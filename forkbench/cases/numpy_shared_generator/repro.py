#!/usr/bin/env python3
"""one numpy Generator for threads and child

library: numpy (2.4.6)   expect: hang
mechanism: the lock of the generator's bit generator, in compiled code
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import numpy as np
g = np.random.default_rng()
busy(lambda: g.standard_normal(2000000), 2); time.sleep(0.2)
run_child(lambda: g.random(), forks=20, gap=0.005)
