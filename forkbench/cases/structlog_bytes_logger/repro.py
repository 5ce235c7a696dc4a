#!/usr/bin/env python3
"""structlog's BytesLogger on a slow pipe

library: structlog (26.1.0)   expect: hang
mechanism: WRITE_LOCKS[file] and the file's own lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import structlog
r, w = os.pipe()
def reader():
    while True: os.read(r, 4096); time.sleep(0.002)
thread(reader)
structlog.configure(logger_factory=structlog.BytesLoggerFactory(open(w, "wb", closefd=False)), processors=[structlog.processors.JSONRenderer(serializer=lambda *a, **k: b"x" * 3000)])
log = structlog.get_logger()
busy(lambda: log.info("a"), 2); time.sleep(0.3)
run_child(lambda: log.info("c"), forks=20, gap=0.005)
