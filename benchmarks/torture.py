"""Forks from a process whose threads do everything at once: bare, and under `wait`, beside each other.

    python benchmarks/torture.py [--minutes N] [--forks N] [--forkers N] [--pause SECONDS] [--only bare|wait] [--keep FOLDER]

Threads take locks, import and reload modules, log, look up names, use executors, queues, zlib, sqlite, ssl, buffered files and
pools of multiprocessing, raise, come and go. Several of them fork; each child does a little of all that, in threads that it
starts too, and every fourth forks again. A child in which nothing has run for 5 s has hung, and is killed; so has a thread of
the process itself that has not come through its job for 60 s. `--pause 0`: no thread rests between two jobs.

Printed for each: forks, how many children (and their children) hung or failed, how long the `os.fork()` call took, and what the
process has more at the end than after its first 1,000 forks (or a fifth of them). `--keep`: there the events are written, and what
the doctor says of each child that hung. Exit status 1 if a child hung or failed, or a thread stood still, under `wait`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import logging
import multiprocessing
import os
import queue
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import forkproof

QUIET = 5.0  # seconds without a thread that runs, after which a child has hung: no job waits for longer than 10 ms
STALLED = 60.0  # seconds for one job of a thread in the process that forks
SETTLED = 1000  # forks after which everything has been allocated that stays
MODULES = ["colorsys", "this_is_not_a_module", "wave", "cmd", "fractions", "graphlib", "netrc"]
FINE, FAILED, GRANDCHILD_HUNG, GRANDCHILD_FAILED = range(4)  # exit statuses of a child

lock, recursive, condition = threading.Lock(), threading.RLock(), threading.Condition()
items: queue.Queue[int] = queue.Queue(50)
log = logging.getLogger("torture")
log.propagate = False
log.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115
database = sqlite3.connect(":memory:", check_same_thread=False)
buffered = tempfile.TemporaryFile("w+b")  # noqa: SIM115
forking = multiprocessing.get_context("fork")


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


def pools() -> None:
    with forking.Pool(1) as pool:
        pool.map(abs, range(3))
        pool.close()
        pool.join()


WORK: list[Callable[[], None]] = [
    locks, imports, raises, logs, names, queues, executors, compresses, queries, secures, files, comes_and_goes, pools,
]  # fmt: skip
CHILDS: list[Callable[[], None]] = [
    job for job in WORK if job not in (secures, pools)
]  # those two take too long
EACH = 3  # jobs of one child, in turn


@dataclass
class Outcome:
    """What came of the forks of one process."""

    policy: str
    seconds: float = 0
    forks: int = 0
    forks_of_forks: int = 0
    hung: int = 0
    failed: int = 0
    stalled: list[str] = field(default_factory=list)
    """Jobs that a thread of the process itself did not come through."""
    p50: float = 0
    """Milliseconds that `os.fork()` took in the parent; the next two also."""
    p99: float = 0
    longest: float = 0
    more: dict[str, int] = field(default_factory=dict)


class Torture:
    """The threads, the forks and the count of both."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._end = time.monotonic() + asked.minutes * 60
        self._outcome = Outcome(asked.only)
        self._took: list[float] = []
        self._counting = threading.Lock()
        self._settled: dict[str, int] = {}
        self._settles = min(SETTLED, max(asked.forks // 5, 1))
        self._begun: dict[str, float] = {}  # of the job that each thread is at

    def run(self) -> Outcome:
        began = time.monotonic()
        for job in WORK:
            threading.Thread(target=self._work, args=(job,), daemon=True, name=job.__name__).start()
        forkers = [threading.Thread(target=self._fork, daemon=True) for _ in range(self._asked.forkers)]
        for thread in forkers:
            thread.start()
        told = began
        while any(thread.is_alive() for thread in forkers):
            time.sleep(0.5)
            if time.monotonic() > self._end + 2 * STALLED:
                self._outcome.stalled.append("a forking thread")
                break
            if time.monotonic() > told + 30:
                told = time.monotonic()
                self._tell()
        now = time.monotonic()
        outcome, took = self._outcome, sorted(self._took)
        outcome.stalled += [name for name, since in self._begun.items() if now - since > STALLED]
        outcome.seconds = now - began
        outcome.forks = len(took)
        outcome.p50, outcome.p99 = took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000
        outcome.longest = took[-1] * 1000
        last = state()
        outcome.more = {key: last[key] - self._settled.get(key, last[key]) for key in last}
        return outcome

    def _tell(self) -> None:
        outcome = self._outcome
        done = f"{len(self._took)} forks, {outcome.hung} hung, {outcome.failed} failed"
        os.write(2, f"{outcome.policy}: {done}, {state()}\n".encode())

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            self._begun[job.__name__] = time.monotonic()
            job()
            if self._asked.pause:
                time.sleep(self._asked.pause)

    def _fork(self) -> None:
        number = 0
        while time.monotonic() < self._end and len(self._took) < self._asked.forks:
            number += 1
            again = forks_again(number)
            pid, took = fork_one(number)
            status = wait_for(pid, self._asked.keep)
            with self._counting:
                outcome = self._outcome
                outcome.hung += status is None or status == GRANDCHILD_HUNG
                outcome.failed += status not in (None, FINE, GRANDCHILD_HUNG)
                outcome.forks_of_forks += again
                self._took.append(took)
                if len(self._took) == self._settles:
                    self._settled = state()


def forks_again(number: int) -> bool:
    return number % 4 == 0


def fork_one(number: int) -> tuple[int, float]:
    began = time.monotonic()
    pid = os.fork()
    took = time.monotonic() - began
    if pid == 0:
        status = FAILED
        try:
            status = child(number)
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return pid, took


def child(number: int) -> int:
    """A little of what the parent's threads do."""
    status = FINE
    if forks_again(number):
        below = wait_for(fork_one(number + 1)[0], None)
        status = GRANDCHILD_HUNG if below is None else GRANDCHILD_FAILED if below else FINE
    for job in range(number * EACH, (number + 1) * EACH):
        CHILDS[job % len(CHILDS)]()
    return status


def wait_for(pid: int, keep: Path | None) -> int | None:
    """The child's exit status; None if nothing ran in it any more, and it was killed."""
    ran, since, pause = -1, time.monotonic(), 0.002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if now - since > 0.2:
            pause = 0.1
            runs = has_run(pid)
            if runs is None or runs != ran:
                ran, since = -1 if runs is None else runs, max(since, now - 0.2)
            if now - since > QUIET:
                break
        time.sleep(pause)
    if keep is not None:
        command = [sys.executable, "-m", "forkproof", "doctor", str(pid)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        (keep / f"hung-{pid}.txt").write_text(said.stdout + said.stderr)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def has_run(pid: int) -> int | None:
    """Processor time of a process, in the kernel's ticks. None: it is running, or waits for a processor, now."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except OSError:
            return None  # the thread has just ended
        if fields[0] not in "SZX":
            return None
        total += int(fields[11]) + int(fields[12])
    return total


def state() -> dict[str, int]:
    """Of this process, once whatever is garbage is gone."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "KiB": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    }


def told(outcome: Outcome) -> str:
    more = ", ".join(f"{value:+d} {key}" for key, value in outcome.more.items())
    stalled = f"; stood still: {', '.join(outcome.stalled)}" if outcome.stalled else ""
    return (
        f"CPython {sys.version.split()[0]}, {outcome.policy}: {outcome.forks} forks and {outcome.forks_of_forks} of their "
        f"children in {outcome.seconds:.0f} s, {outcome.hung} hung, {outcome.failed} failed; os.fork() ms p50 {outcome.p50:.1f}, "
        f"p99 {outcome.p99:.1f}, max {outcome.longest:.1f}; at the end {more}{stalled}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--forks", type=int, default=10**9)
    parser.add_argument("--forkers", type=int, default=6, help="threads that fork")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two jobs of a thread")
    parser.add_argument("--only", choices=["bare", "wait"])
    parser.add_argument("--keep", type=Path, help="a folder for what is known of hangs")
    asked = parser.parse_args()
    if asked.only is None:
        ended = [subprocess.run([sys.executable, *sys.argv, "--only", policy]) for policy in ("bare", "wait")]
        return ended[-1].returncode
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if asked.only == "wait":
        forkproof.install(warn=False, events=asked.keep / "events.jsonl" if asked.keep else None)
    outcome = Torture(asked).run()
    print(told(outcome))
    if asked.keep is not None:
        (asked.keep / f"{asked.only}.json").write_text(json.dumps(asdict(outcome)))
    sys.stdout.flush()
    os._exit(1 if outcome.hung or outcome.failed or outcome.stalled else 0)


if __name__ == "__main__":
    sys.exit(main())
