"""How long a fork waits for a safe point while threads do their worst, and what becomes of the children without it.

    python benchmarks/safe_point.py [--forks N] [--loads locks,imports,...]

Each load is four threads that do one thing over and over, without a pause; the main thread forks, and each child does that
thing once. In turns, in processes of their own: bare, and under `wait`. A child that has not ended after 3 s has hung and is
killed; after ten of them a run is over. `p50`, `p99` and `max` are of the `os.fork()` call on the clock, in milliseconds, which
bare is what the machine makes of a fork beside four busy threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

THREADS = 4
PATIENCE = 3.0
HANGS = 10
MODULES = ["colorsys", "wave", "cmd", "fractions", "graphlib", "netrc"]


@dataclass(frozen=True)
class Row:
    """Times in milliseconds."""

    load: str
    policy: str
    forks: int
    hung: int
    failed: int
    p50: float
    p99: float
    longest: float


def locks() -> Callable[[], None]:
    outer, middle, inner = threading.Lock(), threading.RLock(), threading.Lock()

    def job() -> None:
        with outer, middle, inner:
            sum(range(200))

    return job


def imports() -> Callable[[], None]:
    def job() -> None:
        for name in MODULES:
            sys.modules.pop(name, None)
            with contextlib.suppress(ImportError, KeyError):
                importlib.import_module(name)

    return job


def names() -> Callable[[], None]:
    def job() -> None:
        socket.getaddrinfo("localhost", 80)

    return job


def compressor() -> Callable[[], None]:
    shared, data = zlib.compressobj(), os.urandom(20_000)

    def job() -> None:
        shared.compress(data)

    return job


def log() -> Callable[[], None]:
    logger = logging.getLogger("load")
    logger.propagate = False
    logger.addHandler(logging.FileHandler(os.path.join(tempfile.mkdtemp(), "log")))

    def job() -> None:
        logger.warning("as ever")

    return job


def database() -> Callable[[], None]:
    connection = sqlite3.connect(":memory:", check_same_thread=False)

    def job() -> None:
        connection.execute("select 1").fetchall()

    return job


def files() -> Callable[[], None]:
    file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (for as long as the process)

    def job() -> None:
        file.write(b"x" * 3000)

    return job


LOADS: dict[str, Callable[[], Callable[[], None]]] = {
    "locks": locks,
    "imports": imports,
    "names": names,
    "compressor": compressor,
    "log": log,
    "database": database,
    "files": files,
}


def ended(pid: int) -> int | None:
    """Exit code; None if it had to be killed."""
    descriptor = os.pidfd_open(pid)
    ready = select.select([descriptor], [], [], PATIENCE)[0]
    os.close(descriptor)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if ready else None


def run(load: str, policy: str, forks: int) -> Row:
    """In this process, which is not fit for anything else afterwards."""
    warnings.simplefilter("ignore")
    if policy == "wait":
        import forkproof

        forkproof.install(policy="wait", events=os.devnull)
    job = LOADS[load]()

    def work() -> None:
        while True:
            job()

    for _ in range(THREADS):
        threading.Thread(target=work, daemon=True).start()
    times: list[float] = []
    hung = failed = 0
    while len(times) < forks and hung < HANGS:
        begin = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                job()
                status = 0
            finally:
                os._exit(status)
        times.append((time.perf_counter() - begin) * 1e3)
        code = ended(pid)
        hung += code is None
        failed += code not in (0, None)
    times.sort()
    return Row(
        load=load,
        policy=policy,
        forks=len(times),
        hung=hung,
        failed=failed,
        p50=times[len(times) // 2],
        p99=times[int(len(times) * 0.99)],
        longest=times[-1],
    )


def measure(load: str, policy: str, forks: int) -> Row:
    command = [sys.executable, __file__, "--one", load, policy, str(forks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 + forks)
    return Row(**json.loads(done.stdout))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        load, policy, forks = sys.argv[2:]
        os.write(1, json.dumps(asdict(run(load, policy, int(forks)))).encode())
        os._exit(0)  # with its threads at work
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--loads", default=",".join(LOADS))
    args = parser.parse_args()
    print(
        f"{'load':12} {'policy':8} {'forks':>6} {'hung':>5} {'failed':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}"
    )
    for load in args.loads.split(","):
        for policy in ("bare", "wait"):
            row = measure(load, policy, args.forks)
            print(
                f"{row.load:12} {row.policy:8} {row.forks:6} {row.hung:5} {row.failed:7} {row.p50:8.1f} {row.p99:8.1f} {row.longest:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
