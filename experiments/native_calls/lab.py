"""One row of the experiment: threads that stay inside a call, forks while they are there, and whether the children hang.

A row runs in a process of its own (`run.py` starts it and times it out). Holder threads repeat one call; the main thread
forks again and again, each child makes one call and leaves by `os._exit`. A child that has not ended by the limit and
sleeps in the kernel has hung: it is shown to the runner, which can look at it with gdb, and killed.

`inside` counts the forks at which a holder had begun its call and not ended it. "0 hung" says something only beside it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHILD_LIMIT = 1.2


@dataclass
class Forks:
    """Holders repeat `hold`; each child calls `child`. `blocks` says that `hold` is called once and never returns."""

    hold: Callable[[], Any]
    child: Callable[[], Any]
    threads: int = 1
    forks: int = 40
    enough: int = 3  # hung children after which to stop: the answer is known
    blocks: bool = False
    gap: float = 0.004  # longest pause between forks; the real one is random
    settle: float = 0.1  # seconds before the first fork


@dataclass
class KeepsGil:
    """Whether other threads stand still while `call` runs: then no other Python thread can fork in the middle of it."""

    call: Callable[[], Any]
    times: int = 3


@dataclass
class Row:
    name: str
    make: Callable[[], Forks | KeepsGil | str]
    needs: str = ""  # versions, as in ">=3.14"
    strace: tuple[str, ...] = ()  # system calls to slow down, to widen the window
    path: str = ""  # only those on this path
    shim: str = ""  # library whose mutexes the preloaded shim holds for longer
    delay: int = 20_000  # microseconds
    root: str = ""  # a file to be put in place of a system file, in a mount namespace: "fifo:/etc/services"
    site: bool = False  # with the packages that are installed


ROWS: dict[str, Row] = {}
KEEP: list[Any] = []  # what must stay open for as long as the row runs


def row(name: str, **options: Any) -> Callable[[Callable[[], Forks | KeepsGil | str]], Callable[[], Any]]:
    def register(make: Callable[[], Forks | KeepsGil | str]) -> Callable[[], Any]:
        assert name not in ROWS, name
        ROWS[name] = Row(name, make, **options)
        return make

    return register


def _say(**message: Any) -> None:
    os.write(REPORT, json.dumps(message).encode() + b"\n")


def _asleep(pid: int) -> str:
    """The number of the system call that the process sleeps in ("202" is futex on x86-64), or "" if it runs."""
    try:
        with open(f"/proc/{pid}/syscall") as file:
            return file.read().split()[0].replace("running", "")
    except (OSError, IndexError):
        return ""


def _wait(pid: int) -> tuple[str, int]:
    """How the child ended: ("ok" | "error" | "hung" | "slow", status)."""
    end = time.monotonic() + CHILD_LIMIT
    very_end = end + 20.0  # a child that merely runs slowly on a busy machine has not hung
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return ("error" if status else "ok"), status
        now = time.monotonic()
        if now > end and _asleep(pid) not in ("", "0", "1"):
            return "hung", 0
        if now > very_end:
            return "slow", 0
        time.sleep(0.001)


def run_forks(trial: Forks) -> dict[str, Any]:
    begun = [0] * trial.threads
    ended = [0] * trial.threads
    errors: list[str] = []

    def holder(number: int) -> None:
        while True:
            begun[number] += 1
            try:
                trial.hold()
            except Exception as error:  # noqa: BLE001  what the call raises is part of the result
                if len(errors) < 3:
                    errors.append(repr(error))
            ended[number] += 1
            if trial.blocks:
                return

    for number in range(trial.threads):
        threading.Thread(target=holder, args=(number,), daemon=True).start()
    time.sleep(trial.settle)
    hung = failed = inside = forks = 0
    waits_in = ""
    while forks < trial.forks and hung < trial.enough:
        if trial.gap:
            time.sleep(random.random() * trial.gap)
        held = any(b != e for b, e in zip(begun, ended, strict=True))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(NULL, 1)
                signal.alarm(60)
                trial.child()
                code = 0
            except BaseException as error:  # noqa: BLE001
                os.write(2, f"child: {error!r}\n".encode())
            finally:
                os._exit(code)
        forks += 1
        inside += held
        how, _status = _wait(pid)
        if how == "hung":
            hung += 1
            waits_in = _asleep(pid)
            if hung == 1:
                _say(hung=pid)
                os.read(CONTROL, 1)  # the runner has looked
        if how in ("hung", "slow"):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        failed += how in ("error", "slow")
    return {
        "kind": "forks",
        "forks": forks,
        "inside": inside,
        "hung": hung,
        "failed": failed,
        "syscall": waits_in,
        "errors": errors,
        "calls": sum(ended),
    }


def run_keeps_gil(trial: KeepsGil) -> dict[str, Any]:
    """The longest standstill of a counting thread, against the time that the call took.

    A call that lets the GIL go leaves the counter running; in one that keeps it, standstill and call are equally long.
    """
    sys.setswitchinterval(0.0005)
    gap = [0.0]
    stop = [False]

    def count() -> None:
        last = time.perf_counter()
        while not stop[0]:
            now = time.perf_counter()
            gap[0] = max(gap[0], now - last)
            last = now

    trial.call()
    results = []
    for _ in range(trial.times):
        stop[0] = False
        gap[0] = 0.0
        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        time.sleep(0.05)
        gap[0] = 0.0
        begin = time.perf_counter()
        trial.call()
        took = time.perf_counter() - begin
        stop[0] = True
        thread.join()
        results.append((gap[0], took))
    standstill, took = max(results, key=lambda pair: pair[1])
    return {"kind": "gil", "standstill_ms": standstill * 1e3, "call_ms": took * 1e3}


REPORT = CONTROL = NULL = -1


def main(name: str) -> None:
    """Run one row and say its result as a JSON line on what was standard output."""
    global REPORT, CONTROL, NULL
    REPORT, CONTROL = os.dup(1), os.dup(0)  # rows may replace the standard streams
    NULL = os.open(os.devnull, os.O_WRONLY)
    os.dup2(NULL, 1)
    made = ROWS[name].make()
    if isinstance(made, str):
        _say(result={"kind": "skipped", "why": made})
    elif isinstance(made, KeepsGil):
        _say(result=run_keeps_gil(made))
    else:
        _say(result=run_forks(made))
    os._exit(0)  # holders may never return
