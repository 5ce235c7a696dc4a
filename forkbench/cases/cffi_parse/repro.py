#!/usr/bin/env python3
"""a thread parses declarations of C; so does the child

https://github.com/python-cffi/cffi/blob/main/src/cffi/cparser.py
library: cffi (2.1.1)   expect: hang
mechanism: the lock of cffi's parser, of the whole process
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import cffi
DECLS = "\n".join("struct s%d { int a, b; struct s%d *next; }; int f%d(struct s%d *, int, char **);" % (i, i, i, i) for i in range(60))
def parse(): cffi.FFI().cdef(DECLS)
parse()
busy(parse, 2); time.sleep(0.1)
run_child(lambda: cffi.FFI().cdef("int g(int);"), forks=10, gap=0.01)
