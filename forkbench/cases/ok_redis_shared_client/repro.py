#!/usr/bin/env python3
"""a client of redis-py that threads and the child use

library: redis (8.1.0)   expect: safe
mechanism: SAFE: its pool notices another process and makes itself anew
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import socket, redis
srv = socket.create_server(("127.0.0.1", 0))
def conn(c):
    f = c.makefile("rb")
    while True:
        l = f.readline()
        if not l: return
        n = int(l[1:])
        words = []
        for _ in range(n): f.readline(); words.append(f.readline().strip())
        c.sendall(b"-ERR unknown\r\n" if words[0] == b"HELLO" else b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")
def serve():
    while True: thread(conn, srv.accept()[0])
thread(serve)
r = redis.Redis(port=srv.getsockname()[1], protocol=2); r.ping()
busy(r.ping, 2, 0.001); time.sleep(0.2)
run_child(r.ping, forks=20, gap=0.01)
