#!/usr/bin/env python3
"""loguru used by threads, which takes its locks at each fork

library: loguru (0.7.3)   expect: safe
mechanism: SAFE: before- and after-hooks
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from loguru import logger
logger.remove(); logger.add(lambda m: None)
busy(lambda: logger.info("x"), 2, 0.001); time.sleep(0.2)
run_child(lambda: logger.info("c"), forks=30, gap=0.005)
