#!/usr/bin/env python3
"""images written in threads

library: pillow (13.0.0)   expect: safe
mechanism: SAFE: no lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from PIL import Image
import io
def w(): Image.new("RGB", (800, 800)).save(io.BytesIO(), "PNG")
busy(w, 2); time.sleep(0.3)
run_child(w, forks=10, gap=0.01)
