"""What every case does with its child: fork, wait for at most CORPUS_LIMIT seconds, say how it went, leave nothing running.

The last line of output is `CHILD ok` (status 0), `CHILD hung` (3) or `CHILD error ...` (4); an exception in the child is
printed there. CORPUS_TRACE=1 dumps the stacks of a hang, CORPUS_TRACE=gdb the native ones too. CORPUS_ASK=FOLDER is for a
runner that wants to look at a hung child: its pid is in FOLDER/hung until the runner takes that file away, and SIGUSR2 makes
faulthandler write into FOLDER/faulthandler.
"""

import os
import signal
import sys
import threading
import time

LIMIT = float(os.environ.get("CORPUS_LIMIT", "5"))
TRACE = os.environ.get("CORPUS_TRACE")
ASK = os.environ.get("CORPUS_ASK")
if ASK:
    import faulthandler

    _dump = open(os.path.join(ASK, "faulthandler"), "ab")
    faulthandler.register(signal.SIGUSR2, file=_dump, all_threads=True)  # inherited by the child
if TRACE:
    import faulthandler
    import traceback

    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)  # inherited by the child


def say(line, rc):
    os.write(1, line.encode() + b"\n")
    os._exit(rc)


def _end(line, rc):
    """A case that has something of its own to end, or another standard output to write to, has a `say` of its own."""
    sys.modules["__main__"].say(line, rc)


def thread(fn, *args):
    t = threading.Thread(target=fn, args=args, daemon=True)
    t.start()
    return t


def busy(function, threads=1, pause=0.0):
    """Threads that do it again and again."""

    def run():
        while True:
            function()
            if pause:
                time.sleep(pause)

    for _ in range(threads):
        thread(run)


def _before():
    if not TRACE:
        return None
    me = threading.get_ident()
    return "".join(
        "--- parent thread %s at fork\n%s" % (k, "".join(traceback.format_stack(f)[-6:]))
        for k, f in sys._current_frames().items()
        if k != me
    )


def show(pid):
    """Holds the hung child for a runner that has asked for it, for at most ten minutes."""
    if not ASK:
        return
    place = os.path.join(ASK, "hung")
    with open(place + ".new", "w") as file:
        file.write(str(pid))
    os.rename(place + ".new", place)
    end = time.monotonic() + 600
    while os.path.exists(place) and time.monotonic() < end:
        time.sleep(0.02)


def _watch(pid, note):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        p, st = os.waitpid(pid, os.WNOHANG)
        if p:
            if st:
                _end("CHILD error status=%d" % st, 4)
            return
        time.sleep(0.002)
    if TRACE:
        os.write(2, (note or "").encode())
        os.write(2, b"=== hung child:\n")
        os.kill(pid, signal.SIGUSR2)
        time.sleep(0.5)
        if TRACE == "gdb":
            os.system("gdb -p %d -batch -ex bt 2>/dev/null | grep '^#' | head -25 >&2" % pid)
    show(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _end("CHILD hung", 3)


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
            except BaseException:  # whatever it is, the child says it and goes no further
                import traceback as tb

                os.write(2, tb.format_exc().encode())
            finally:
                os._exit(rc)
        _watch(pid, note)
        if gap:
            time.sleep(gap)
    _end("CHILD ok", 0)


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
                os.write(2, note.encode())
                os.write(2, b"=== hung child:\n")
                os.kill(p.pid, signal.SIGUSR2)
                time.sleep(0.5)
            show(p.pid)
            os.kill(p.pid, signal.SIGKILL)
            p.join()
            _end("CHILD hung", 3)
        if p.exitcode:
            _end("CHILD error exitcode=%d" % p.exitcode, 4)
        if gap:
            time.sleep(gap)
    _end("CHILD ok", 0)
