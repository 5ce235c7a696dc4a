"""Forks from a process whose threads do everything at once: bare, and under `wait`.

    python benchmarks/torture.py [--minutes N] [--forks N] [--bare]

Threads take locks, import and reload modules, log, look up names, use executors, queues, zlib, sqlite, ssl and buffered
files, raise, come and go. Two of them fork; each child does a little of all that, in a thread that it starts too, and every
fourth forks again. A child that has not ended after 20 s of its own has hung, and is killed. Printed: forks, hangs, crashes,
how long the `os.fork()` call took, and what the process has more at the end than after its first 50 forks. `--bare`: without
Forkproof. Exit status 1 if a child hung or crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import queue
import signal
import socket
import sqlite3
import ssl
import statistics
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import forkproof

PATIENCE = 20.0
PAUSE = 0.02  # between the jobs of one thread: without it a single import follows on another for ever
MODULES = ["colorsys", "this_is_not_a_module", "wave", "chunk", "cmd", "fractions", "graphlib", "netrc"]

lock, recursive, condition = threading.Lock(), threading.RLock(), threading.Condition()
items: queue.Queue[int] = queue.Queue(50)
log = logging.getLogger("torture")
log.propagate = False
log.addHandler(logging.StreamHandler(io.StringIO()))
database = sqlite3.connect(":memory:", check_same_thread=False)
buffered = tempfile.TemporaryFile("w+b")  # noqa: SIM115
stop = threading.Event()


def locks() -> None:
    with lock, recursive, recursive:
        sum(range(50))
    with condition:
        condition.wait(0.001)
        condition.notify_all()


def imports() -> None:
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.reload(importlib.import_module(name))
            sys.modules.pop(name, None)


def raises() -> None:
    with contextlib.suppress(ZeroDivisionError), lock:
        1 / 0  # noqa: B018


def logs() -> None:
    log.warning("as ever %s", os.getpid())


def names() -> None:
    socket.getaddrinfo("localhost", 80)


def queues() -> None:
    with contextlib.suppress(queue.Full, queue.Empty):
        items.put(1, timeout=0.01)
        items.get(timeout=0.01)


def executors() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, range(5)))


def compresses() -> None:
    zlib.decompress(zlib.compress(b"x" * 50_000))


def queries() -> None:
    with lock:
        database.execute("select 1").fetchall()


def secures() -> None:
    ssl.create_default_context()


def files() -> None:
    buffered.write(b"x" * 5000)
    buffered.flush()
    buffered.seek(0)


def comes_and_goes() -> None:
    thread = threading.Thread(target=locks)
    thread.start()
    thread.join()


WORK: list[Callable[[], None]] = [
    locks, imports, raises, logs, names, queues, executors, compresses, queries, secures, files, comes_and_goes,
]  # fmt: skip


def works(job: Callable[[], None]) -> None:
    while not stop.is_set():
        job()
        time.sleep(PAUSE)


def child(again: bool) -> None:
    """A little of what the parent's threads do; an executor last, which leaves its threads to be joined."""
    if again:
        wait_for(fork_one(False)[0])
    for job in (locks, logs, names, queues, compresses, queries, files, comes_and_goes, executors):
        job()


def fork_one(again: bool) -> tuple[int, float]:
    began = time.monotonic()
    pid = os.fork()
    took = time.monotonic() - began
    if pid == 0:
        status = 1
        try:
            child(again)
            status = 0
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return pid, took


def wait_for(pid: int) -> str:
    """How the child ended: "", "hung" or "crashed". One in which nothing runs any more has hung."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "" if os.waitstatus_to_exitcode(status) == 0 else "crashed"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def state() -> dict[str, int]:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "KiB": pages * 4,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--forks", type=int, default=10**9)
    parser.add_argument("--bare", action="store_true", help="without Forkproof")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if not asked.bare:
        forkproof.install(warn=False)
    for job in WORK:
        threading.Thread(target=works, args=(job,), daemon=True, name=job.__name__).start()

    end = time.monotonic() + asked.minutes * 60
    ends: dict[str, int] = {"": 0, "hung": 0, "crashed": 0}
    waits: list[float] = []
    counting = threading.Lock()
    first: dict[str, int] = {}

    def forks() -> None:
        number = 0
        while time.monotonic() < end and len(waits) < asked.forks:
            number += 1
            pid, took = fork_one(number % 4 == 0)
            how = wait_for(pid)
            with counting:
                ends[how] += 1
                waits.append(took)
                if len(waits) == 50:
                    first.update(state())

    second = threading.Thread(target=forks)
    second.start()
    forks()
    second.join()
    last = state()
    waits.sort()
    more = {key: last[key] - first.get(key, last[key]) for key in last}
    print(
        f"CPython {sys.version.split()[0]}, {'bare' if asked.bare else 'wait'}: {len(waits)} forks, "
        f"{ends['hung']} hung, {ends['crashed']} crashed; os.fork() ms p50 {statistics.median(waits) * 1000:.1f}, "
        f"p99 {waits[int(len(waits) * 0.99)] * 1000:.1f}, max {waits[-1] * 1000:.1f}; since the 50th: {more}"
    )
    sys.stdout.flush()
    os._exit(1 if ends["hung"] or ends["crashed"] else 0)


if __name__ == "__main__":
    main()
