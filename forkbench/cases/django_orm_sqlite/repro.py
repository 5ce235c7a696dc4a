#!/usr/bin/env python3
"""connections to SQLite opened, used and closed by Django's threads

library: django (5.2.19)   expect: hang
mechanism: SQLite's process-wide mutexes, for moments
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import django, tempfile
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": tempfile.mktemp()}})
django.setup()
from django.db import connection, connections
def w():
    with connection.cursor() as c: c.execute("select 1"); c.fetchall()
    connections.close_all()
busy(w, 3); time.sleep(0.5)
run_child(w, forks=150, gap=0.003)
