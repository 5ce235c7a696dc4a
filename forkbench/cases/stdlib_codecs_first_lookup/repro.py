#!/usr/bin/env python3
"""codecs looked up for the first time in a thread

library: CPython encodings (3.x)   expect: hang
mechanism: the module lock of an encoding that is being imported
"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "common"))
from harness import *   # thread(), run_child(), run_mp_child(), and os, sys, time, signal, threading
del sys.path[0]

# --- case ------------------------------------------------------------------
def run_first_use(child):
    """It happens once a process: start the program anew up to 8 times, each forks half a millisecond later."""
    attempt = int(os.environ.get("ATTEMPT", "0"))
    time.sleep(attempt * 0.0005)
    def say_and_go_on(line, status):
        if status == 0 and attempt < 7:
            os.environ["ATTEMPT"] = str(attempt + 1); os.execv(sys.executable, [sys.executable] + sys.argv)
        first_say(line, status)
    first_say = globals()["say"]; globals()["say"] = say_and_go_on
    run_child(child)
import codecs, encodings
def w():
    for n in ("cp037","cp500","cp1026","big5","shift_jis","euc_kr","iso2022_jp","koi8_r","mac_cyrillic","cp1250","cp1251","cp1252","cp1253","cp1254"): codecs.lookup(n)
thread(w)
def child():
    for n in ("cp037","cp500","cp1026","big5","shift_jis","euc_kr","iso2022_jp","koi8_r"): codecs.lookup(n)
run_first_use(child)
