#!/usr/bin/env python3
"""tables parsed in threads

library: pandas (3.1.1)   expect: safe
mechanism: SAFE: no lock that a child could want
"""
# --- harness (identical in every case; CORPUS_TRACE=1 dumps stacks of a hang) ---
import os, sys, time, signal, threading
LIMIT = float(os.environ.get("CORPUS_LIMIT", "5"))
TRACE = os.environ.get("CORPUS_TRACE")
if TRACE:
    import faulthandler, traceback
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)   # inherited by the child

def say(line, rc):
    os.write(1, line.encode() + b"\n")
    os._exit(rc)

def thread(fn, *args):
    t = threading.Thread(target=fn, args=args, daemon=True)
    t.start()
    return t

def _before():
    if TRACE:
        me = threading.get_ident()
        return "".join("--- parent thread %s at fork\n%s" % (k, "".join(traceback.format_stack(f)[-6:]))
                       for k, f in sys._current_frames().items() if k != me)

def _watch(pid, note):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        p, st = os.waitpid(pid, os.WNOHANG)
        if p:
            if st:
                say("CHILD error status=%d" % st, 4)
            return
        time.sleep(0.002)
    if TRACE:
        os.write(2, (note or "").encode()); os.write(2, b"=== hung child:\n")
        os.kill(pid, signal.SIGUSR2); time.sleep(0.5)
        if TRACE == "gdb":
            os.system("gdb -p %d -batch -ex bt 2>/dev/null | grep '^#' | head -25 >&2" % pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    say("CHILD hung", 3)

def run_child(child, forks=1, gap=0.0):
    """Fork up to `forks` times, run child() in each; report the first hang."""
    for _ in range(forks):
        note = _before()
        pid = os.fork()
        if pid == 0:
            rc = 1
            try:
                if TRACE:
                    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
                child()
                rc = 0
            except BaseException:
                import traceback as tb
                os.write(2, tb.format_exc().encode())
            finally:
                os._exit(rc)
        _watch(pid, note)
        if gap:
            time.sleep(gap)
    say("CHILD ok", 0)

def run_mp_child(child, forks=1, gap=0.0):
    """The same through multiprocessing's fork start method."""
    import multiprocessing
    ctx = multiprocessing.get_context("fork")
    def main():
        if TRACE:
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        child()
    for _ in range(forks):
        note = _before()
        p = ctx.Process(target=main)
        if TRACE:
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        p.start()
        p.join(LIMIT)
        if p.exitcode is None:
            if TRACE:
                os.write(2, note.encode()); os.write(2, b"=== hung child:\n")
                os.kill(p.pid, signal.SIGUSR2); time.sleep(0.5)
            os.kill(p.pid, signal.SIGKILL)
            p.join()
            say("CHILD hung", 3)
        if p.exitcode:
            say("CHILD error exitcode=%d" % p.exitcode, 4)
        if gap:
            time.sleep(gap)
    say("CHILD ok", 0)

# --- case ------------------------------------------------------------------
def busy(function, threads=1, pause=0.0):           # threads that do it again and again
    def run():
        while True:
            function()
            if pause: time.sleep(pause)
    for _ in range(threads): thread(run)
import pandas as pd, io
t = "a,b\n" + "1,2\n" * 20000
busy(lambda: pd.read_csv(io.StringIO(t)), 2); time.sleep(0.5)
run_child(lambda: pd.read_csv(io.StringIO("a\n1\n")), forks=10, gap=0.01)
