"""What the doctor says of healthy programs, idle, slow and busy; the table of docs/doctor.md.

    python experiments/doctor/healthy.py [PYTHON...]

Needs forkproof[doctor] in the environment that runs it. The programs (healthy_programs.py, which are the tests' too) run on that
interpreter or on those that are given; one that needs a library which an interpreter has not is left out there. Each is looked at
when its main thread stands still, a busy one when it has begun. `stopped`: the seconds for which the process was stopped, as its
`TracerPid` in /proc has it, the least and the most of the interpreters. Ends with status 1 if a healthy program was called hung.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from healthy_programs import BUSY, PRELUDE, PROGRAMS, stands_still

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from doctor_cost import watch

from forkproof.doctor.errors import DoctorError

LIMIT = 30.0
NEEDS = {"gunicorn": "gunicorn"}
"""Modules, by a word in the name of the programs that need them."""


@dataclass
class Row:
    """What was said of a program on one interpreter."""

    python: str
    verdict: str
    does: str
    stopped: float


def main(pythons: list[str]) -> int:
    """Print the table; the exit status."""
    hung = 0
    print("| program | its main thread | verdict | stopped, s |\n| --- | --- | --- | --- |")
    programs = {name: (program, True) for name, (_, program) in PROGRAMS.items()}
    programs |= {name: (program, False) for name, program in BUSY.items()}
    for name, (program, still) in programs.items():
        rows = [
            look(python, program, still)
            for python in pythons
            if all(has(python, need) for need in needs(name))
        ]
        if not rows:
            continue
        hung += sum(row.verdict in ("proven", "likely") for row in rows)
        # Which worker of a pool has the lock, or where a thread is that runs, is chance.
        does = " or ".join(dict.fromkeys(without_names(row.does) for row in rows))
        verdict = by_python([(row.python, row.verdict) for row in rows])
        print(f"| {name} | {does} | {verdict} | {seconds([row.stopped for row in rows])} |", flush=True)
    print(f"\n{len(programs)} programs, {hung} called hung", file=sys.stderr)
    return 1 if hung else 0


def look(python: str, program: str, still: bool) -> Row:
    """Start a program, and look at it once."""
    with started(python, program) as pid:
        until = time.monotonic() + LIMIT
        while still and not stands_still(pid):
            assert time.monotonic() < until, "does not stand still"
        try:
            found, stopped = watch(pid)
        except DoctorError as error:
            return Row("?", str(error), "", 0)
    main_thread = next(view for view in found.threads if view.thread.native_id == pid)
    return Row(found.python or "?", found.verdict, main_thread.does, stopped)


@contextmanager
def started(python: str, program: str) -> Iterator[int]:
    """The process to look at."""
    command = [python, "-W", "ignore", "-c", PRELUDE + dedent(program)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def needs(name: str) -> list[str]:
    """The modules that a program needs."""
    return [module for word, module in NEEDS.items() if word in name]


def has(python: str, module: str) -> bool:
    """Whether an interpreter has a module."""
    return not subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode


def by_python(said: list[tuple[str, str]]) -> str:
    """What was said, once where it is the same on all interpreters."""
    pythons: dict[str, list[str]] = {}
    for python, text in said:
        pythons.setdefault(text, []).append(python)
    if len(pythons) == 1:
        return said[0][1]
    return "; ".join(f"{', '.join(those)}: {text}" for text, those in pythons.items())


def without_names(text: str) -> str:
    """Without what differs from run to run: ids of processes, ports, temporary files."""
    text = re.sub(r"(process |127\.0\.0\.1:)\d+", r"\1N", text)
    return re.sub(re.escape(tempfile.gettempdir()) + r"/\S+", "a temporary file", text)


def seconds(stopped: list[float]) -> str:
    """The least and the most, in words."""
    least, most = (f"{value:.2f}".replace("0.00", "0") for value in (min(stopped), max(stopped)))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [sys.executable]))
