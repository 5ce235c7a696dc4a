"""gunicorn and Celery with a thread beside their forks: what gets lost bare and under Forkproof, and what it costs.

    python benchmarks/servers.py [gunicorn] [celery] [throughput] [--requests N] [--tasks N] [--limit SECONDS] [--rounds N]

Run it in an environment with `forkproof[test]`. The programs are those of examples/servers. Each table has a row without
Forkproof and one with it, from one run on one machine:

gunicorn    --preload, 4 workers that are replaced after every third request; a worker that hangs is killed by
            the arbiter after 5 seconds, and the request that it had is lost.
celery      prefork, 4 children that are replaced after every task; broker and results in Debian's redis-server, which is
            started here. Counts what is done within the limit: bare, a child that hangs is never replaced. Then the same where
            the thread sleeps, so that nothing hangs: what Forkproof costs. Celery itself misses the exit of a child now and
            then and sees to it by a timer of 5 seconds, with and without Forkproof.
throughput  the same gunicorn where the thread of the arbiter sleeps, so that nothing hangs: requests per second by Debian's
            wrk, workers replaced after about 200 requests, bare and with Forkproof in turn; medians and their ratio.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent.parent / "examples" / "servers"
SEND = """
import sys, time, tasks
number, limit = int(sys.argv[1]), float(sys.argv[2])
left = [tasks.work.delay(n) for n in range(number)][::-1]
began = last = None
sent = time.monotonic()
while left and time.monotonic() - (began or sent) < limit:
    time.sleep(0.05)
    before = len(left)
    while left and left[-1].ready():
        left.pop()
    now = time.monotonic()
    if len(left) < before:
        began = began or now
        last = now
print(number - sum(not job.ready() for job in left), (last or 0) - (began or 0))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["gunicorn", "celery", "throughput"])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for Celery's tasks (900)")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    known = {"gunicorn": _gunicorn, "celery": _celery, "throughput": _throughput}
    for name in asked.what:
        if name not in known:
            parser.error(f"there is no {name!r}; there are {', '.join(known)}")
        known[name](asked)


def _gunicorn(asked: argparse.Namespace) -> None:
    print(
        f"\ngunicorn --preload, 4 workers, {asked.requests} requests, a worker replaced after every third\n"
    )
    print(
        "|           | answered | lost | workers killed | seconds | forks | waited ms: p50 |   p99 |   max |"
    )
    print(
        "| --------- | -------- | ---- | -------------- | ------- | ----- | -------------- | ----- | ----- |"
    )
    options = ("--workers", "4", "--max-requests", "3", "--timeout", "5")
    for name in ("bare", "forkproof"):
        with _served(name, *options) as (address, folder):
            began = time.monotonic()
            with ThreadPoolExecutor(4) as clients:
                answered = sum(clients.map(lambda _: _asks(address), range(asked.requests)))
            seconds = time.monotonic() - began
        killed = (folder / "log").read_text().count("WORKER TIMEOUT")
        lost = asked.requests - answered
        print(
            f"| {name:9} | {answered:8} | {lost:4} | {killed:14} | {seconds:7.1f} | {_waits(folder)} |",
            flush=True,
        )
        shutil.rmtree(folder)


def _celery(asked: argparse.Namespace) -> None:
    server = shutil.which("redis-server")
    if server is None:
        sys.exit("the Celery table needs redis-server (Debian's package of that name)")
    print(
        f"\nCelery prefork, 4 children replaced after every task, {asked.tasks} tasks, at most {asked.limit:.0f} s from the first\n"
    )
    print(
        "|                         | done | not done | seconds | tasks/s | forks | waited ms: p50 |   p99 |   max |"
    )
    print(
        "| ----------------------- | ---- | -------- | ------- | ------- | ----- | -------------- | ----- | ----- |"
    )
    for held in (True, False):
        for name in ("bare", "forkproof"):
            done, seconds, waits = _celery_row(server, name, asked, {} if held else {"QUIET": "1"})
            rate = f"{done / seconds:7.2f}" if seconds else "     - "
            title = name if held else f"{name}, nothing held"
            print(
                f"| {title:23} | {done:4} | {asked.tasks - done:8} | {seconds:7.1f} | {rate} | {waits} |",
                flush=True,
            )


def _celery_row(
    server: str, name: str, asked: argparse.Namespace, variables: dict[str, str]
) -> tuple[int, float, str]:
    """One worker: tasks done, seconds from the first of them to the last, and the waits of its forks."""
    folder = Path(tempfile.mkdtemp(prefix="forkproof-servers-"))
    port = _free_port()
    redis = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    surroundings = {**os.environ, "BROKER": f"redis://127.0.0.1:{port}"}
    options = ["--concurrency=4", "--max-tasks-per-child=1", "--loglevel=WARNING"]
    with open(folder / "log", "wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", *options],
            cwd=PROGRAMS,
            env={**surroundings, **variables, **_switch(name, folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        command = [sys.executable, "-c", SEND, str(asked.tasks), str(asked.limit)]
        told = subprocess.run(
            command, cwd=PROGRAMS, env=surroundings, capture_output=True, text=True, check=True
        )
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        redis.terminate()
        redis.wait()
    done, seconds = told.stdout.split()
    waits = _waits(folder)
    shutil.rmtree(folder)
    return int(done), float(seconds), waits


def _throughput(asked: argparse.Namespace) -> None:
    if shutil.which("wrk") is None:
        sys.exit("the throughput needs wrk (Debian's package of that name)")
    print(
        f"\ngunicorn --preload, 4 workers replaced after about 200 requests, nothing held: {asked.rounds} rounds of 10 s\n"
    )
    options = ("--workers", "4", "--max-requests", "200", "--max-requests-jitter", "50")
    rates: dict[str, list[float]] = {"bare": [], "forkproof": []}
    for round_ in range(asked.rounds):
        for name in sorted(rates, reverse=bool(round_ % 2)):
            with _served(name, *options, QUIET="1") as (address, folder):
                told = subprocess.run(
                    ["wrk", "-t2", "-c8", "-d10s", address], capture_output=True, text=True, check=True
                )
            found = re.search(r"Requests/sec:\s+([\d.]+)", told.stdout)
            assert found, told.stdout
            rates[name].append(float(found[1]))
            shutil.rmtree(folder)
    bare, watched = (statistics.median(rates[name]) for name in ("bare", "forkproof"))
    ratios = sorted(b / a for a, b in zip(rates["bare"], rates["forkproof"], strict=True))
    print(f"requests a second, median: bare {bare:.0f}, forkproof {watched:.0f}, ratio {watched / bare:.3f}")
    print("ratio of each round: " + ", ".join(f"{ratio:.3f}" for ratio in ratios))


@contextmanager
def _served(name: str, *options: str, **variables: str) -> Iterator[tuple[str, Path]]:
    """A running gunicorn, bare or with Forkproof: its address and its folder, with its log and its events."""
    folder = Path(tempfile.mkdtemp(prefix="forkproof-servers-"))
    port = _free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--preload",
                "-b",
                f"127.0.0.1:{port}",
                *options,
                "application:app",
            ],
            cwd=PROGRAMS,
            env={**os.environ, **variables, **_switch(name, folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while b"Listening at" not in (folder / "log").read_bytes():
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/", folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _switch(name: str, folder: Path) -> dict[str, str]:
    return {"FORKPROOF": f"events={folder}/events.jsonl,hang_after=inf" if name == "forkproof" else "off"}


def _asks(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return bool(answer.read())
    except OSError:
        return False


def _waits(folder: Path) -> str:
    """Forks and how long they waited, from the events; as cells of a table."""
    try:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return "    - |              - |     - |    - "
    waits = sorted(event["waited_ms"] for event in events if event["event"] == "fork")
    at = [waits[min(int(share * len(waits)), len(waits) - 1)] for share in (0.5, 0.99, 1)]
    return f"{len(waits):5} | {at[0]:14.1f} | {at[1]:5.1f} | {at[2]:5.1f}"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
