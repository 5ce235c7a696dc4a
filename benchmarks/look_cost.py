"""What one look at all other threads costs, by how many they are and how deep they stand, beside the ways that Python has.

    python benchmarks/look_cost.py [--threads 1,10,50,200,500] [--frames 7,14,40] [--rounds N]

Every thread waits in `Condition.wait` and nothing is at risk. Before each round every thread has run and waits again, so that
nothing that an earlier look found out about it still stands. In microseconds, medians over the rounds:

look         `_native.assess`: what would be at risk at a fork now
frames       `sys._current_frames()`, which gives the frames and says nothing of what they hold
stacks       the same, and each thread's `traceback.extract_stack`, as a program that logs its threads would
faulthandler `faulthandler.dump_traceback` of all threads into /dev/null
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fork_overhead import Population, numbers

from forkproof import _native


@dataclass(frozen=True)
class Row:
    """Medians, in microseconds."""

    threads: int
    frames: int
    look: float
    current_frames: float
    stacks: float
    faulthandler: float


def stacks() -> None:
    for frame in sys._current_frames().values():
        traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)


def measure(threads: int, frames: int, rounds: int) -> Row:
    population = Population(threads, frames)
    times: dict[str, list[float]] = {}

    def take(name: str, way: Callable[[], object]) -> None:
        population.stir()
        begin = time.perf_counter_ns()
        way()
        times.setdefault(name, []).append((time.perf_counter_ns() - begin) / 1e3)

    with open(os.devnull, "w", encoding="ascii") as nowhere:
        ways: dict[str, Callable[[], object]] = {
            "look": partial(_native.assess, False),
            "current_frames": sys._current_frames,
            "stacks": stacks,
            "faulthandler": partial(faulthandler.dump_traceback, nowhere),
        }
        for _ in range(rounds):
            for name, way in ways.items():
                take(name, way)
    population.end()
    return Row(threads, frames, **{name: statistics.median(some) for name, some in times.items()})


def cases(threads: list[int], frames: list[int]) -> list[tuple[int, int]]:
    return list(dict.fromkeys([*((count, 14) for count in threads), *((50, depth) for depth in frames)]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=numbers, default=[1, 10, 50, 200, 500])
    parser.add_argument("--frames", type=numbers, default=[7, 14, 40], help="at 50 threads")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    print(
        f"{'threads':>8} {'frames':>7} {'look us':>9} {'frames us':>10} {'stacks us':>10} {'faulthandler us':>16}"
    )
    for threads, frames in cases(args.threads, args.frames):
        row = measure(threads, frames, args.rounds)
        print(
            f"{row.threads:8} {row.frames:7} {row.look:9.1f} {row.current_frames:10.1f} {row.stacks:10.1f} {row.faulthandler:16.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
