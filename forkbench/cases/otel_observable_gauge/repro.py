#!/usr/bin/env python3
"""an observable gauge's callback takes time while metrics are collected

https://github.com/open-telemetry/opentelemetry-python/blob/main/opentelemetry-sdk/src/opentelemetry/sdk/metrics/_internal/measurement_consumer.py
library: opentelemetry-sdk (1.45.2)   expect: hang
mechanism: lock held while the callbacks of a collection run
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.metrics import Observation
reader = InMemoryMetricReader(); meter = MeterProvider(metric_readers=[reader]).get_meter("m")
def cb(options): time.sleep(1.0); return [Observation(1)]
meter.create_observable_gauge("g", callbacks=[cb])
thread(reader.get_metrics_data); time.sleep(0.3)
run_child(lambda: meter.create_observable_gauge("h", callbacks=[lambda o: []]))
