#!/usr/bin/env python3
"""numbers drawn from numpy's global generator by threads

library: numpy (2.4.6)   expect: hang
mechanism: the lock of numpy.random.mtrand._rand, in compiled code
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import numpy as np
busy(lambda: np.random.standard_normal(2000000), 2); time.sleep(0.2)
run_child(lambda: np.random.rand(), forks=20, gap=0.005)
