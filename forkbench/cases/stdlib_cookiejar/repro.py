#!/usr/bin/env python3
"""a CookieJar that several threads use

library: CPython http.cookiejar (3.x)   expect: hang
mechanism: CookieJar._cookies_lock
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
import http.cookiejar, urllib.request
j = http.cookiejar.CookieJar()
i = [0]
def w():
    i[0] += 1
    j.set_cookie(http.cookiejar.Cookie(0, "n%d" % (i[0] % 50), "v", None, False, "a.b", True, False, "/", True, False, None, False, None, None, {}))
    j.clear_expired_cookies()
busy(w, 3); time.sleep(0.05)
r = urllib.request.Request("http://a.b/")
run_child(lambda: j.add_cookie_header(r), forks=150, gap=0.002)
