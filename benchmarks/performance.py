"""All that `docs/performance.md` says, measured in one run and written there.

    python benchmarks/performance.py [--quick] [--markdown FILE]

Fork cost (fork_overhead.py), the cost of a look (look_cost.py), the wait for a safe point (safe_point.py) and the time to a
verdict (to_verdict.py): each beside its alternatives. Takes about eight minutes; `--quick` about two, for trying the script.
The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import fork_overhead
import look_cost
import safe_point
import to_verdict

NOTES = Path(__file__).with_name("performance_notes.md")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield (
            "| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        )
    yield ""


def fork_cost(quick: bool) -> Iterator[str]:
    pairs = 8 if quick else 40
    cases = [
        (1, 14, 0),
        (10, 14, 0),
        (50, 14, 0),
        (50, 14, 20),
        (200, 14, 0),
        (500, 14, 0),
        (50, 7, 0),
        (50, 40, 0),
    ]
    rows = []
    for situation in ("still", "awake"):
        for threads, frames, native in cases:
            say(f"fork cost: {situation}, {threads} threads of {frames} frames, {native} native ones")
            row = fork_overhead.measure(situation, threads, frames, native, pairs, lambda _: None)
            ratio = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
            rows.append(
                (
                    situation,
                    threads,
                    frames,
                    native,
                    row.bare_us,
                    row.armed_us,
                    row.added_us,
                    ratio,
                    row.added_faults,
                )
            )
    yield from table(
        (
            "threads are",
            "threads",
            "frames",
            "bare, µs",
            "armed, µs",
            "more, µs",
            "ratio (95 %)",
            "page faults more",
        ),
        rows,
    )
    say("fork cost: the other ways to start a process")
    ways = sorted(fork_overhead.methods().items(), key=lambda item: item[1])
    yield from table(("multiprocessing, to the first result, 50 threads in the parent", "ms"), ways)


def look(quick: bool) -> Iterator[str]:
    rows = []
    for threads, frames in look_cost.cases([1, 10, 50, 200, 500], [7, 14, 40]):
        say(f"a look: {threads} threads of {frames} frames")
        row = look_cost.measure(threads, frames, 10 if quick else 60)
        rows.append((row.threads, row.frames, row.look, row.current_frames, row.stacks, row.faulthandler))
    yield from table(
        (
            "threads",
            "frames",
            "look, µs",
            "`sys._current_frames()`, µs",
            "stacks by `traceback`, µs",
            "`faulthandler`, µs",
        ),
        rows,
    )


def waits(quick: bool) -> Iterator[str]:
    rows = []
    for load in safe_point.LOADS:
        for policy in ("bare", "wait"):
            say(f"safe point: {load}, {policy}")
            row = safe_point.measure(load, policy, 20 if quick else 200)
            rows.append((load, policy, row.forks, row.hung, row.failed, row.p50, row.p99, row.longest))
    yield from table(
        ("load", "policy", "forks", "hung", "failed", "`os.fork()` p50, ms", "p99, ms", "max, ms"), rows
    )


def verdicts(quick: bool) -> Iterator[str]:
    say("time to a verdict")
    rows = to_verdict.measure(2 if quick else 7)
    yield from table(
        ("tool", "median, s", "longest, s", "says"),
        [(row.tool, f"{row.median:.2f}", f"{row.longest:.2f}", row.says) for row in rows],
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def page(quick: bool) -> str:
    """The notes, with each `{{name}}` replaced by what was measured."""
    parts = {
        "machine": [
            f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
            f"glibc {platform.libc_ver()[1]}, {date.today().isoformat()}, load {os.getloadavg()[0]:.1f} at the start{', a quick run' if quick else ''}."
        ],
        "fork_cost": fork_cost(quick),
        "look": look(quick),
        "waits": waits(quick),
        "verdicts": verdicts(quick),
    }
    text = NOTES.read_text(encoding="utf-8")
    for name, lines in parts.items():
        text = text.replace("{{" + name + "}}", "\n".join(lines).strip())
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # CPython's own, at each bare fork
    text = page(args.quick)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
