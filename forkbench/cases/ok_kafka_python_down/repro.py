#!/usr/bin/env python3
"""a kafka-python producer whose broker is down

library: kafka-python (3.0.12)   expect: safe
mechanism: SAFE: the sender's thread holds its locks for moments, and the child sends nothing
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import logging, kafka; logging.disable(50)
p = kafka.KafkaProducer(bootstrap_servers="127.0.0.1:1", api_version=(2, 6)); time.sleep(0.5)
run_child(lambda: None, forks=30, gap=0.01)
