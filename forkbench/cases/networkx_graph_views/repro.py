#!/usr/bin/env python3
"""threads walk graphs of their own (3.11)

https://github.com/python/cpython/issues/87634
library: networkx (3.6.1)   expect: hang
mechanism: the RLock of functools.cached_property: one for all graphs
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import networkx
def walk(): networkx.shortest_path(networkx.path_graph(20), 0, 19)
walk(); busy(walk, 4); time.sleep(0.1)
run_child(walk, forks=60, gap=0.002)
