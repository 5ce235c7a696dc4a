"""What Forkproof adds to `os.fork()`, in one process, bare and armed in turn.

    python benchmarks/fork_overhead.py [--pairs N] [--threads 1,10,50,200] [--depths 7,14,40] [--native 20] [--json FILE] [--no-methods]

Nothing is at risk: every thread waits in `Condition.wait` under the given number of Python frames; with native threads, those wait
on a semaphore of the C library's, of a program that Python does not know. Two situations:

still  no other thread has run since the fork before, as when a pool starts its workers one after the other
awake  every other thread has run, and waits again, since the fork before

`bare` and `armed` are medians, in microseconds, of the processor time that the `os.fork()` call takes the thread that calls
it; other load on the machine disturbs that less than the time on the clock. Blocks of bare and armed forks alternate, in
random order within each pair of blocks; `ratio` is the median over the pairs, so that the machine's drift falls on both
alike, and its interval a bootstrap over the pairs, 95 %. `+us` is the median of what the pairs differ by, `faults` the page
faults more that a fork costs the parent. `clock` is the ratio on the clock, and `to exit` that of the time on the clock until a
child that does nothing has been waited for. The last table starts a job the ways that multiprocessing offers, and
takes the time to its first result.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from resource import RUSAGE_SELF, getrusage

import forkproof

BLOCK = 10  # forks that count
FIRST = 4  # forks before them that do not: `install` and the first look have one-time costs


@dataclass(frozen=True)
class Fork:
    """One fork: the call in the parent, and on the clock until the child was waited for; in microseconds."""

    processor: float
    clock: float
    whole: float
    faults: int


@dataclass(frozen=True)
class Row:
    situation: str
    threads: int
    frames: int
    native: int
    bare_us: float
    armed_us: float
    added_us: float
    ratio: float
    low: float
    high: float
    added_faults: float
    clock_ratio: float
    whole_ratio: float


class Population:
    """`threads` threads that wait under `frames` Python frames each."""

    def __init__(self, threads: int, frames: int) -> None:
        self._condition, self._waiting, self._over = threading.Condition(), threading.Semaphore(0), False
        # Thread._bootstrap, _bootstrap_inner and run, _stand and Condition.wait are five of the frames.
        depth = max(frames - 5, 0)
        self._workers = [
            threading.Thread(target=self._descend, args=(depth,), daemon=True) for _ in range(threads)
        ]
        for worker in self._workers:
            worker.start()
        self._settle()

    def _descend(self, depth: int) -> None:
        if depth > 1:
            self._descend(depth - 1)
        else:
            self._stand()

    def _stand(self) -> None:
        with self._condition:
            while not self._over:
                self._waiting.release()
                self._condition.wait()

    def _settle(self) -> None:
        for _ in self._workers:
            self._waiting.acquire()
        with self._condition:
            pass  # the last of them has let go: all wait

    def stir(self) -> None:
        """Let every thread run, and wait again."""
        with self._condition:
            self._condition.notify_all()
        self._settle()

    def end(self) -> None:
        with self._condition:
            self._over = True
            self._condition.notify_all()
        for worker in self._workers:
            worker.join()


class NativePopulation:
    """`threads` threads of the C library that wait on a semaphore, as the workers of a pool do."""

    def __init__(self, threads: int) -> None:
        self._c = ctypes.PyDLL(None)
        self._semaphore = ctypes.create_string_buffer(64)  # of sem_t: 32 bytes with glibc
        self._c.sem_init(self._semaphore, 0, 0)
        self._threads = [ctypes.c_ulong() for _ in range(threads)]
        for thread in self._threads:
            self._c.pthread_create(ctypes.byref(thread), None, self._c.sem_wait, self._semaphore)
        time.sleep(0.05)

    def end(self) -> None:
        for _ in self._threads:
            self._c.sem_post(self._semaphore)
        for thread in self._threads:
            self._c.pthread_join(thread, None)


def fork_once() -> Fork:
    faults = getrusage(RUSAGE_SELF).ru_minflt
    start, begin = time.perf_counter_ns(), time.thread_time_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    processor, clock = time.thread_time_ns() - begin, time.perf_counter_ns() - start
    faults = getrusage(RUSAGE_SELF).ru_minflt - faults
    os.waitpid(pid, 0)
    return Fork(processor / 1e3, clock / 1e3, (time.perf_counter_ns() - start) / 1e3, faults)


def block(between: Callable[[], None]) -> list[Fork]:
    forks = []
    for _ in range(FIRST + BLOCK):
        between()
        forks.append(fork_once())
    return forks[FIRST:]


def interval(values: Sequence[float]) -> tuple[float, float]:
    medians = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(1000))
    return medians[25], medians[-26]


def measure(
    situation: str, threads: int, frames: int, native: int, pairs: int, progress: Callable[[int], None]
) -> Row:
    population, pool = Population(threads, frames), NativePopulation(native)
    between = population.stir if situation == "awake" else lambda: None
    bare: list[list[Fork]] = []
    armed: list[list[Fork]] = []
    for pair in range(pairs):
        progress(pair)
        for blocks in random.sample([bare, armed], 2):
            if blocks is armed:
                forkproof.install(policy="wait")
            blocks.append(block(between))
            forkproof.uninstall()
    population.end()
    pool.end()

    def medians(blocks: list[list[Fork]], figure: str) -> list[float]:
        return [statistics.median(getattr(fork, figure) for fork in forks) for forks in blocks]

    def ratios(figure: str) -> list[float]:
        return [a / b for a, b in zip(medians(armed, figure), medians(bare, figure), strict=True)]

    def mean_faults(blocks: list[list[Fork]]) -> float:
        return statistics.mean(fork.faults for forks in blocks for fork in forks)

    bare_us, armed_us = medians(bare, "processor"), medians(armed, "processor")
    low, high = interval(ratios("processor"))
    return Row(
        situation=situation,
        threads=threads,
        frames=frames,
        native=native,
        bare_us=statistics.median(bare_us),
        armed_us=statistics.median(armed_us),
        added_us=statistics.median(a - b for a, b in zip(armed_us, bare_us, strict=True)),
        ratio=statistics.median(ratios("processor")),
        low=low,
        high=high,
        added_faults=mean_faults(armed) - mean_faults(bare),
        clock_ratio=statistics.median(ratios("clock")),
        whole_ratio=statistics.median(ratios("whole")),
    )


def job(value: int) -> int:
    return value + 1


def put_result(queue: object) -> None:
    queue.put(job(1))  # type: ignore[attr-defined]


def method_cost(method: str, rounds: int) -> float:
    """Milliseconds from starting a process to its first result."""
    import multiprocessing

    context = multiprocessing.get_context(method)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        queue = context.SimpleQueue()
        process = context.Process(target=put_result, args=(queue,))  # type: ignore[attr-defined]
        process.start()
        queue.get()
        times.append((time.perf_counter() - start) * 1e3)
        process.join()
    return statistics.median(times[1:])  # the first also starts the fork server


def methods() -> dict[str, float]:
    """The same job started each way, with 50 threads in the parent."""
    population = Population(50, 14)
    forkproof.install(policy="wait")
    costs = {"fork, armed": method_cost("fork", 30)}
    forkproof.uninstall()
    costs["fork, bare"] = method_cost("fork", 30)
    costs["forkserver"] = method_cost("forkserver", 10)
    costs["spawn"] = method_cost("spawn", 10)
    population.end()
    return costs


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40, help=f"pairs of blocks of {BLOCK} forks a row (40)")
    parser.add_argument("--threads", type=numbers, default=[1, 10, 50, 200])
    parser.add_argument("--depths", type=numbers, default=[7, 14, 40], help="frames, at 50 threads")
    parser.add_argument("--native", type=numbers, default=[20], help="native threads, at 50 threads")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--no-methods", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # CPython's own at each bare fork, seen once at most anyway

    cases = [(threads, 14, 0) for threads in args.threads]
    cases += [(50, depth, 0) for depth in args.depths if (50, depth, 0) not in cases]
    cases += [(50, 14, native) for native in args.native if native]
    rows_wanted = [(situation, *case) for situation in ("still", "awake") for case in cases]
    trial = statistics.median(fork_once().whole for _ in range(20)) / 1e6
    # With threads a fork takes about twice as long, and waking them as long as a fork.
    seconds = len(rows_wanted) * args.pairs * 2 * (FIRST + BLOCK) * trial * 3
    print(
        f"CPython {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
        f"{args.pairs} pairs of blocks of {BLOCK} forks a row; takes about {max(1, round(seconds))} s"
    )
    print(
        f"{'':6}{'threads':>8} {'frames':>7} {'native':>7} {'bare us':>9} {'armed us':>9} {'+us':>6} {'ratio':>7}  {'95 %':>13} "
        f"{'faults':>7} {'clock':>7} {'to exit':>8}",
        flush=True,
    )
    rows = []
    for situation, threads, frames, native in rows_wanted:

        def progress(
            pair: int, text: str = f"{situation}, {threads} threads, {frames} frames, {native} native"
        ) -> None:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{text}: {pair} of {args.pairs} \r")

        row = measure(situation, threads, frames, native, args.pairs, progress)
        rows.append(row)
        print(
            f"{row.situation:6}{row.threads:8} {row.frames:7} {row.native:7} {row.bare_us:9.1f} {row.armed_us:9.1f} {row.added_us:6.1f} "
            f"{row.ratio:7.3f}  {row.low:6.3f}-{row.high:6.3f} {row.added_faults:7.1f} {row.clock_ratio:7.3f} "
            f"{row.whole_ratio:8.3f}",
            flush=True,
        )
    costs = {} if args.no_methods else methods()
    if costs:
        print("\nmultiprocessing, start to first result, 50 threads in the parent:")
        for name, cost in sorted(costs.items(), key=lambda item: item[1]):
            print(f"{name:>14} {cost:8.1f} ms")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(
                {"python": sys.version, "rows": [asdict(row) for row in rows], "methods_ms": costs},
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
