#!/usr/bin/env python3
"""InfluxDB's batching write API, written to and closed in a child

library: influxdb-client (1.50.0)   expect: hang
mechanism: nothing: the threads of its scheduler
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import influxdb_client, socket, logging; logging.disable(50)
c = influxdb_client.InfluxDBClient("http://127.0.0.1:1", token="t", org="o")
w = c.write_api(write_options=influxdb_client.WriteOptions(batch_size=10, flush_interval=100, max_retries=0))
w.write("b", "o", "m f=1"); time.sleep(0.4)
def child(): w.write("b", "o", "m f=1"); w.close()
run_child(child)
