#!/usr/bin/env python3
"""a thread waits for the FTP server's reply; the child closes the client it has inherited

https://github.com/python/cpython/blob/main/Lib/ftplib.py
library: CPython ftplib (3.x)   expect: hang
mechanism: the lock of the buffered reader below FTP.file
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import ftplib, socket
s = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        c, _ = s.accept()
        c.sendall(b"220 ready\r\n"); keep.append(c)
keep = []
thread(serve)
ftp = ftplib.FTP(); ftp.connect("127.0.0.1", s.getsockname()[1])
thread(lambda: ftp.voidcmd("NOOP")); time.sleep(0.3)
run_child(ftp.close, forks=2)
