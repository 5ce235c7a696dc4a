"""How long the doctor takes for its verdict, and where the time goes.

    doctor_time.py [PYTHON...]

On each interpreter (this one if none is given) `article.py` (docs/index.md) hangs, bare. `forkproof doctor` is run on its child LOOKS
times; for its answer: the seconds from the command to its end, the median and all between the least and the most, and those of
a processor, its own and its readers'. Of that: starting the interpreter and importing the command; the pause between the two looks at /proc;
the reading of stacks, while the process is stopped; the rest. These are medians of looks of their own.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doctor_cost import watch

import forkproof
from forkproof.doctor.examine import BETWEEN_LOOKS
from forkproof.doctor.process import children_of

LOOKS = 8
IMPORTS = "import forkproof.cli, forkproof.doctor.command"
ARTICLE = Path(forkproof.__file__).parent / "lab" / "programs" / "article.py"


def main(pythons: list[str]) -> None:
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    print("| CPython | seconds | processor | imports | pause | stopped | rest | verdict |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for python in pythons:
        with hung(python) as pid:
            command = [sys.executable, "-m", "forkproof", "doctor", "--json", str(pid)]
            told = json.loads(subprocess.run(command, stdout=subprocess.PIPE).stdout)
            looks = [timed(command) for _ in range(LOOKS)]
            stopped = [watch(pid)[1] for _ in range(LOOKS)]
        imports = [timed([sys.executable, "-c", IMPORTS]) for _ in range(LOOKS)]
        wall = [seconds for seconds, _ in looks]
        total, started, stood = (
            statistics.median(values) for values in (wall, [seconds for seconds, _ in imports], stopped)
        )
        print(
            f"| {told['python']} | {total:.2f} ({min(wall):.2f} to {max(wall):.2f}) | "
            f"{statistics.median(used for _, used in looks):.2f} | {started:.2f} | {BETWEEN_LOOKS:.2f} | {stood:.2f} | "
            f"{total - started - BETWEEN_LOOKS - stood:.2f} | {told['verdict']}, by {told['proof']} |",
            flush=True,
        )


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and those of a processor."""
    before, began = used(), time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL)
    return time.monotonic() - began, used() - before


def used() -> float:
    """Seconds of a processor, of this process's children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@contextmanager
def hung(python: str) -> Iterator[int]:
    """A child of article.py that hangs: now and then it does not, and the program is run again."""
    while True:
        with subprocess.Popen([python, "-W", "ignore", ARTICLE], start_new_session=True) as process:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                (pid,) = children_of()[process.pid]
                try:
                    yield pid
                finally:
                    os.killpg(process.pid, signal.SIGKILL)
                return


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
