"""What the doctor's tests have in common: programs to look at, brought to where they are to be seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Program, Run, Start

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments" / "doctor"))

from healthy_programs import PRELUDE, stands_still

from forkproof.model import Diagnosis

if sys.platform != "linux":
    pytest.skip("the doctor reads /proc of Linux", allow_module_level=True)
pytest.importorskip("pystack")

from forkproof.doctor.examine import examine


@contextmanager
def looked_at(start: Start, program: str, *, still: bool = True, limit: float = 30) -> Iterator[int]:
    """Run the program until the process whose id it prints is where it is to be looked at."""
    with start("-W", "ignore", "-c", PRELUDE + dedent(program), limit=limit) as running:
        line = running.line()
        assert line.isdecimal(), f"the program ended before it had said which process: {line!r}"
        pid = int(line)
        if still:
            running.until(lambda: stands_still(pid))
        yield pid


def main_thread(found: Diagnosis) -> str:
    return found.threads[0].does


def doctor(run: Run, *options: str | int, limit: float = 30) -> tuple[int, list[Diagnosis]]:
    """`forkproof doctor --json`: its exit status, and what it found."""
    ended = run("-m", "forkproof", "doctor", "--json", *map(str, options), limit=limit)
    return ended.status, [Diagnosis.from_json(json.loads(line)) for line in ended.stdout.splitlines()]


__all__ = ["PRELUDE", "Path", "Program", "doctor", "examine", "looked_at", "main_thread", "stands_still"]
