"""What the programs of the guard's tests have in common; they are run as children, so it is text."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

from conftest import Ended

PRELUDE = '''
import os, sys, threading, time, warnings
import forkproof

def thread(function, *args):
    t = threading.Thread(target=function, args=args, daemon=True)
    t.start()
    return t

def forked(child, limit=10.0):
    """Run child() in a forked process: its exit status (0 fine, 1 an exception), or "hung"."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\\n".encode())
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"

def must_be_free(*locks):
    for lock in locks:
        assert lock.acquire(timeout=5), f"{lock} is held"
        lock.release()

def until(condition, limit=10.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)
'''


# A thread that holds a lock until it is told.
HELD = """
mine = threading.Lock()
held = threading.Event()
give_back = threading.Event()
def hold():
    with mine:
        held.set()
        give_back.wait()
holder = thread(hold)
held.wait()
"""

# Three that take a lock over and over.
BUSY = """
lock = threading.Lock()
def work():
    while True:
        with lock:
            sum(range(30))
for _ in range(3):
    thread(work)
def free():
    must_be_free(lock)
"""


def program(body: str, *, install: str = "forkproof.install(warn=False)") -> str:
    """A program that forks under Forkproof; `install` is how it is switched on ("" for not at all)."""
    return PRELUDE + install + "\n" + dedent(body)


def watched(*parts: str, install: str = "forkproof.install(warn=False)") -> str:
    """The same of several parts, each indented by itself."""
    return program("\n".join(dedent(part) for part in parts), install=install)


OBSERVE = "forkproof.install('observe', events='events.jsonl', warn=False)"
WAIT = "forkproof.install(events='events.jsonl', warn=False)"


def succeeds(ended: Ended) -> None:
    assert ended.status == 0, ended.stderr


def forks(folder: Path) -> list[dict[str, Any]]:
    """Those that a program which was started in the folder has written, by one of the lines above."""
    return events(folder / "events.jsonl", "fork")


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    """Those of that kind in an events file."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
