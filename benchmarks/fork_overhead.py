"""What Forkproof adds to `os.fork()`, in one process, bare and armed in turn.

    python benchmarks/fork_overhead.py [--forks N] [--threads 1,10,50,200] [--depths 14] [--json FILE] [--no-methods]

Each figure is the median of the time that the `os.fork()` call takes in the parent, in microseconds. Bare and armed forks
alternate in blocks of twenty, so that the machine's drift falls on both alike; the ratio is taken from the two medians. Nothing
is at risk: every thread waits in `Event.wait` under the given number of Python frames. The interval is a bootstrap of the
ratio, 95 %. The last table starts a job the ways multiprocessing offers and takes the time to its first result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable

import forkproof
from forkproof import _native

BLOCK = 20


def descend(depth: int, ready: threading.Semaphore, done: threading.Event) -> None:
    if depth > 0:
        descend(depth - 1, ready, done)
    else:
        ready.release()
        done.wait()


def population(threads: int, depth: int) -> Callable[[], None]:
    """`threads` threads that stand still under `depth` frames; returns what ends them."""
    ready, done = threading.Semaphore(0), threading.Event()
    # Thread.run, _bootstrap_inner, _bootstrap, Event.wait and Condition.wait are five of the frames.
    workers = [
        threading.Thread(target=descend, args=(max(depth - 6, 0), ready, done), daemon=True)
        for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()

    def end() -> None:
        done.set()
        for worker in workers:
            worker.join()

    return end


def fork_once() -> float:
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    took = time.perf_counter() - start
    os.waitpid(pid, 0)
    return took * 1e6


def compare(forks: int) -> tuple[list[float], list[float]]:
    """Bare and armed forks in short blocks that alternate. The first forks of a block are not counted: `install` and the
    first look have one-time costs, and memory they wrote is copied by the kernel at the next fork."""
    bare: list[float] = []
    armed: list[float] = []
    for block in range(2 * max(1, forks // BLOCK)):
        times = armed if block % 2 else bare
        if block % 2:
            forkproof.install(policy="wait")
        else:
            forkproof.uninstall()
        for _ in range(5):
            fork_once()
        times.extend(fork_once() for _ in range(BLOCK))
    forkproof.uninstall()
    return bare, armed


def interval(bare: list[float], armed: list[float]) -> tuple[float, float]:
    ratios = sorted(
        statistics.median(random.choices(armed, k=len(armed)))
        / statistics.median(random.choices(bare, k=len(bare)))
        for _ in range(400)
    )
    return ratios[10], ratios[-11]


def look_cost(rounds: int = 2000) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        _native.assess()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def job(value: int) -> int:
    return value + 1


def method_cost(method: str, rounds: int) -> float:
    """Milliseconds from starting a pool of one process to its first result."""
    import multiprocessing

    context = multiprocessing.get_context(method)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        queue = context.SimpleQueue()
        process = context.Process(target=put_result, args=(queue,))  # type: ignore[attr-defined]
        process.start()
        queue.get()
        times.append((time.perf_counter() - start) * 1e3)
        process.join()
    return statistics.median(times)


def put_result(queue: object) -> None:
    queue.put(job(1))  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forks", type=int, default=300, help="pairs of forks for each row")
    parser.add_argument("--threads", default="1,10,50,200")
    parser.add_argument("--depths", default="14")
    parser.add_argument("--json")
    parser.add_argument("--no-methods", action="store_true")
    args = parser.parse_args()
    print(
        f"CPython {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPUs, {args.forks} pairs a row"
    )
    print(
        f"{'threads':>8} {'frames':>7} {'bare us':>9} {'armed us':>9} {'ratio':>7}  {'95 %':>13} {'look us':>8}"
    )
    rows = []
    for threads in map(int, args.threads.split(",")):
        for depth in map(int, args.depths.split(",")):
            end = population(threads, depth)
            bare, armed = compare(args.forks)
            low, high = interval(bare, armed)
            row = {
                "threads": threads, "frames": depth, "bare_us": statistics.median(bare),
                "armed_us": statistics.median(armed), "low": low, "high": high, "look_us": look_cost(),
            }  # fmt: skip
            ratio = row["armed_us"] / row["bare_us"]
            rows.append(row)
            print(
                f"{threads:8} {depth:7} {row['bare_us']:9.1f} {row['armed_us']:9.1f} {ratio:7.3f}  "
                f"{low:6.3f}-{high:6.3f} {row['look_us']:8.1f}",
                flush=True,
            )
            end()
    if not args.no_methods:
        end = population(50, 14)
        print("\nmultiprocessing, start to first result, 50 threads in the parent:")
        forkproof.install(policy="wait")
        armed_ms = method_cost("fork", 20)
        forkproof.uninstall()
        for name, cost in (
            ("fork, bare", method_cost("fork", 20)),
            ("fork, armed", armed_ms),
            ("forkserver", method_cost("forkserver", 10)),
            ("spawn", method_cost("spawn", 10)),
        ):
            print(f"{name:>14} {cost:8.1f} ms")
        end()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"python": sys.version, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
