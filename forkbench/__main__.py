"""Run ForkBench: real programs that fork with threads, bare and under Forkproof.

Each case runs three times in its own environment: bare, under `forkproof run --policy observe` and under `--policy wait`. Of the
child that hangs bare, py-spy and pystack (those that are installed) and faulthandler are asked as well. The environments are made when they are missing, which takes a while and a package index. Exits with 1 if a control raised an alarm.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import platform
import sys
from datetime import datetime, timezone

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .others import TOOLS
from .runner import HERE, Row, as_json, cases, environments, run_case, summary, version

COLUMNS = (
    "case",
    "class",
    "bare",
    "named",
    "explained",
    "prevented",
    "alarm",
    "waited",
    "CPython warns",
    *(tool.name for tool in TOOLS),
)


def cells(row: Row) -> tuple[str, ...]:
    def yes(value: bool) -> str:
        return "yes" if value else "no"

    hang = row.expect == "hang"
    return (
        row.case,
        row.kind,
        row.bare.removeprefix("CHILD "),
        yes(row.named) if hang else "",
        yes(row.explained) if hang else "",
        yes(row.prevented) if hang else "" if row.prevented else row.wait.removeprefix("CHILD "),
        "" if hang else "true" if row.alarm and row.alarm_ok else "FALSE" if row.alarm else "none",
        f"{row.waited_ms:.0f} ms",
        yes(row.warned),
        *(", ".join(row.others[tool.name]) or "no" if tool.name in row.others else "" for tool in TOOLS),
    )


def load() -> str:
    """What this and all else kept busy: threads that want a processor, in the mean of the last five minutes."""
    return f"{os.getloadavg()[1]:.1f}"


def markdown(rows: list[Row], python: str, how: str) -> str:
    """`how` it was run: cases at a time, how busy the machine was."""
    lines = [
        "# ForkBench",
        "",
        f"Made by `python -m forkbench --markdown docs/forkbench.md` on {datetime.now(timezone.utc):%Y-%m-%d}, {python}, "
        f"{platform.system()} {platform.machine()}, {how}; the libraries' versions are in `forkbench/requirements*.txt`. One run a "
        "cell: races come out differently now and then, above all on a busy machine.",
        "",
        "*named*: an event of a fork under `observe` names the culprit. *explained*: the hang event of the child does, proven "
        "or likely. *prevented*: the program finishes under `wait`. *alarm*: for controls, a fork said to be at risk or a "
        "hang reported. *waited*: the longest wait of any of its forks.",
        "",
        "What people have today, asked about the same hang. *CPython warns*: of threads, without naming anything, from 3.12 on. "
        "*py-spy* (`dump --native`), *pystack* (`remote --native`) and *faulthandler* (on a signal for which the program had "
        "registered it), asked about the child that hung bare: *where*, its stack with the program's own lines is there; *what*, "
        "one of the strings that must be in Forkproof's event for *named* and *explained* is: the lock's or the library's name in "
        "the child's own stack will do; *who*, the name of a thread that held it or was relied on. Empty: it did not hang.",
        "",
        *(f"- {name}: {value}" for name, value in summary(rows).items()),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---" for _ in COLUMNS) + " |",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m forkbench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", default="*", metavar="GLOB", help="names, * for any text; several with commas"
    )
    parser.add_argument("--python", default="python3.11", help="interpreter of environments that are missing")
    parser.add_argument("--venvs", type=pathlib.Path, default=HERE.parent / ".forkbench", metavar="DIR")
    parser.add_argument(
        "--install", default=str(HERE.parent), metavar="WHAT", help="of Forkproof; empty: as it is there"
    )
    parser.add_argument("--jobs", "-j", type=int, default=1, help="cases at a time")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="for one whole program")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    before = load()

    chosen = list(cases(options.cases))
    console = Console(stderr=options.json)
    rows: list[Row] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("environments", total=len(chosen))
        for done in environments(options.venvs, options.python, options.install or None, options.cases):
            progress.update(task, description=done)

        def say(text: str) -> None:
            progress.update(task, description=f"{text:60}")

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            waiting = [pool.submit(run_case, case, options.venvs, options.limit, say) for case in chosen]
            for future in waiting:
                rows.append(future.result())
                progress.advance(task)

    if options.json:
        print(as_json(rows))
    else:
        table = Table(*COLUMNS)
        for row in rows:
            table.add_row(*cells(row))
        console.print(table)
        for name, value in summary(rows).items():
            console.print(f"{name}: {value}")
    if options.markdown:
        how = (
            f"{os.cpu_count()} processors, {options.jobs} at a time, load {before} before and {load()} after"
        )
        options.markdown.write_text(markdown(rows, version(options.venvs), how))
    return int(any(row.alarm and not row.alarm_ok for row in rows if row.expect == "safe"))


if __name__ == "__main__":
    sys.exit(main())
