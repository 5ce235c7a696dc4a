#!/usr/bin/env python3
"""a connection of ldap3 that threads and the child search with

https://github.com/cannatag/ldap3/blob/dev/ldap3/core/connection.py
library: ldap3 (2.9.1)   expect: hang
mechanism: RLock held for the whole search
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
from ldap3 import Server, Connection, MOCK_SYNC
s = Server("fake"); c = Connection(s, user="cn=a,dc=x", password="p", client_strategy=MOCK_SYNC)
for i in range(300): c.strategy.add_entry("cn=u%d,dc=x" % i, {"userPassword": "p", "sn": "s%d" % i, "objectClass": "person"})
c.strategy.add_entry("cn=a,dc=x", {"userPassword": "p", "sn": "a"}); c.bind()
find = lambda: c.search("dc=x", "(sn=s1*)")
busy(find, 2); time.sleep(0.2)
run_child(find, forks=30)
