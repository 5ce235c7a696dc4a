#!/usr/bin/env python3
"""figures drawn in a thread and in a child

library: matplotlib (3.11.2)   expect: hang
mechanism: RendererAgg.lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import matplotlib; matplotlib.use("agg")
from matplotlib.figure import Figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
def w():
    f = Figure((2, 2)); FigureCanvasAgg(f); f.subplots().plot([1, 2]); f.canvas.draw()
w(); busy(w, 1); time.sleep(0.5)
run_child(w, forks=10, gap=0.01)
