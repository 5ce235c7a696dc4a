"""gunicorn and Celery with a thread beside their forks: what gets lost bare and under Forkproof, and what it costs.

    python benchmarks/servers.py [gunicorn] [celery] [throughput] [fork] [--requests N] [--tasks N] [--limit SECONDS] [--rounds N]
                                 [--seconds SECONDS]

Run it in an environment with `forkproof[test]`. The programs are those of examples/servers. Each table has a row without
Forkproof and one with it, from one run on one machine:

gunicorn    --preload, 4 workers that are replaced after every third request; a worker that hangs is killed by
            the arbiter after 5 seconds, and the request that it had is lost.
celery      prefork, 4 children that are replaced after every task; broker and results in Debian's redis-server, which is
            started here. Counts what is done within the limit: bare, a child that hangs is never replaced. Then the same where
            the thread sleeps, so that nothing hangs: what Forkproof costs. Celery itself misses the exit of a child now and
            then and sees to it by a timer of 5 seconds, with and without Forkproof.
throughput  gunicorn with an application that has SQLAlchemy's connection pool, prometheus_client's metrics and a thread that keeps
            them, in which nothing is held at most forks: asked by Debian's wrk, workers replaced after about 200 requests; bare,
            bare once more, with FORKPROOF=on and with a file of events, the four at the same time. Requests per second, and the
            processor time of gunicorn and all its workers for a request; medians of the rounds, and of each round's ratio to the
            bare one with an interval of 95 %. What the second bare one differs from the first by is what this can tell apart.
fork        what one fork of that application costs its parent and its child: pages copied, or touched for the first time, and
            processor time; bare, on and with a file of events in turn, in one process.
"""

import argparse
import json
import os
import random
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
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent.parent / "examples" / "servers"
SIDE_BY_SIDE = ["bare", "bare again", "on", "events"]
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

FORK = """
import os, resource, statistics, sys, time
import gunicorn.app.wsgiapp, gunicorn.arbiter, gunicorn.workers.sync
import application, forkproof
on = {"bare": forkproof.uninstall, "on": forkproof.install, "events": lambda: forkproof.install(events=sys.argv[2])}

def used(which=resource.RUSAGE_THREAD):
    return resource.getrusage(which).ru_minflt, 1e6 * time.thread_time()

def fork():
    before = used()
    pid = os.fork()
    if not pid:
        for _ in range(300):
            [str(n) for n in range(20)]
        os._exit(0)
    after = used()
    child = os.wait4(pid, 0)[2]
    return after[0] - before[0], after[1] - before[1], child.ru_minflt, 1e6 * (child.ru_utime + child.ru_stime)

found = {name: [] for name in on}
for _ in range(int(sys.argv[1])):
    for name, switch in on.items():
        switch()
        fork()
        found[name] += [fork() for _ in range(10)]
for name, forks in found.items():
    medians = [statistics.median(one[i] for one in forks) for i in range(4)]
    print("| {:6} | {:13.0f} | {:12.0f} | {:12.0f} | {:11.0f} |".format(name, *medians))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["gunicorn", "celery", "throughput"])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for Celery's tasks (900)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one round of the throughput (10)")
    asked = parser.parse_args()
    known = {"gunicorn": _gunicorn, "celery": _celery, "throughput": _throughput, "fork": _fork}
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
        with _served(name, "application:app", *options) as (address, folder):
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
    if find_spec("sqlalchemy") is None:
        sys.exit("the throughput needs SQLAlchemy (pip install sqlalchemy)")
    print(
        f"\ngunicorn --preload, 4 workers replaced after about 200 requests, nothing held: {asked.rounds} rounds of "
        f"{asked.seconds:g} s, the four at the same time\n"
    )
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDE_BY_SIDE}
    for number in range(asked.rounds):
        names = random.sample(SIDE_BY_SIDE, len(SIDE_BY_SIDE))  # nobody is always the first to start
        for name, one in zip(names, _under_load(names, asked.seconds), strict=True):
            told[name].append(one)
        print(f"\r{number + 1} of {asked.rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print("|            | requests/s | of bare                | CPU ms a request | of bare                |")
    print("| ---------- | ---------- | ---------------------- | ---------------- | ---------------------- |")
    for name, rounds in told.items():
        cells = [f"| {name:10} |"]
        for which, shape in ((0, "{:10.0f}"), (1, "{:16.4f}")):
            cells.append(shape.format(statistics.median(one[which] for one in rounds)) + " |")
            ratios = [ours[which] / bare[which] for bare, ours in zip(told["bare"], rounds, strict=True)]
            low, high = _interval(ratios)
            ratio = f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
            cells.append(f"{ratio if name != 'bare' else '':22} |")
        print(" ".join(cells), flush=True)


def _under_load(names: list[str], seconds: float) -> list[tuple[float, float]]:
    """Of each server: requests a second on the clock, and milliseconds of processor time that a request cost gunicorn with all
    its workers. All are asked at the same time, so that whatever else the machine does, it does to each of them."""
    options = ("--workers", "4", "--max-requests", "200", "--max-requests-jitter", "50")
    with ExitStack() as stack:
        served = [stack.enter_context(_served(name, "shop:app", *options)) for name in names]
        servers = [int((folder / "pid").read_text()) for _, folder in served]
        before = [_processor_seconds(server) for server in servers]
        asking = [
            subprocess.Popen(
                ["wrk", "-t1", "-c8", f"-d{seconds:g}s", address], stdout=subprocess.PIPE, text=True
            )
            for address, _ in served
        ]
        answers = [wrk.communicate()[0] for wrk in asking]
        for server in servers:
            os.kill(server, signal.SIGTERM)
        # Each waits for its workers, so what they have used is among its children's.
        used = [os.wait4(server, 0)[2] for server in servers]
    for _, folder in served:
        shutil.rmtree(folder)
    found = []
    for start, usage, answer in zip(before, used, answers, strict=True):
        rate = re.search(r"Requests/sec:\s+([\d.]+)", answer)
        requests = re.search(r"(\d+) requests in", answer)
        assert rate, answer
        assert requests, answer
        found.append((float(rate[1]), 1e3 * (usage.ru_utime + usage.ru_stime - start) / int(requests[1])))
    return found


def _processor_seconds(pid: int) -> float:
    """What a process has used itself, proc(5): its start, which no request is to pay for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _interval(ratios: list[float]) -> tuple[float, float]:
    """95 % for the median: a bootstrap."""
    pick = random.Random(0).choices
    medians = sorted(statistics.median(pick(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


def _fork(asked: argparse.Namespace) -> None:
    print("\nOne fork of that application where nothing is held\n")
    print("| median | parent, pages | parent, µs   | child, pages | child, µs   |")
    print("| ------ | ------------- | ------------ | ------------ | ----------- |")
    with tempfile.TemporaryDirectory(prefix="forkproof-servers-") as folder:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            FORK,
            str(5 * asked.rounds),
            f"{folder}/events.jsonl",
        ]
        environment = {**os.environ, "QUIET": "1", "FORKPROOF": "off"}
        told = subprocess.run(
            command, cwd=PROGRAMS, env=environment, capture_output=True, text=True, check=True
        )
    print(told.stdout, end="", flush=True)


@contextmanager
def _served(name: str, application: str, *options: str) -> Iterator[tuple[str, Path]]:
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
                "--pid",
                folder / "pid",
                *options,
                application,
            ],
            cwd=PROGRAMS,
            env={**os.environ, **_switch(name, folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while b"Listening at" not in (folder / "log").read_bytes():
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/", folder
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _switch(name: str, folder: Path) -> dict[str, str]:
    events = f"events={folder}/events.jsonl,hang_after=inf"
    return {
        "FORKPROOF": {"bare": "off", "bare again": "off", "on": "on", "forkproof": events, "events": events}[
            name
        ]
    }


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
