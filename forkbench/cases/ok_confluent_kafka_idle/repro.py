#!/usr/bin/env python3
"""a producer of the parent's

library: confluent-kafka (2.16.1)   expect: safe
mechanism: SAFE: the child sends nothing
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from confluent_kafka import Producer
p = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})   # librdkafka's broker for tests
p.produce("t", b"x"); p.flush()
run_child(lambda: time.sleep(2))
