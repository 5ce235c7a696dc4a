"""How long it takes from a child that stands still to a sentence about it, and what the sentence says, beside other tools.

    python benchmarks/to_verdict.py [--rounds N]

A program forks while a thread of its holds a lock that its child needs. `watch`: under `observe` with `hang_after` 1 s, from the
moment when the child asks for the lock to its `hang` event, on the clock. The others run from outside, on the same program
without Forkproof in it, and are timed as whole processes. `says` is what their output holds of three things: the `line` where
the child stands, the name of the `lock` (perhaps in a line of source), and the `verdict` that nobody there can let go of it.

Needs pystack (`forkproof[doctor]`); py-spy is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

PROGRAM = """
import faulthandler, os, signal, sys, threading, time

account_lock = threading.Lock()

def hold():
    with account_lock:
        threading.Event().wait()

def use():
    with account_lock:
        pass

threading.Thread(target=hold, daemon=True).start()
while not account_lock.locked():
    pass
if len(sys.argv) > 1:
    import forkproof
    forkproof.install(policy="observe", events=sys.argv[1], hang_after=1.0, warn=False)
faulthandler.register(signal.SIGUSR1, all_threads=True)
pid = os.fork()
if pid == 0:
    print(os.getpid(), time.time(), flush=True)
    use()
os.waitpid(pid, 0)
"""


@dataclass(frozen=True)
class Row:
    """Seconds: the median and the longest."""

    tool: str
    median: float
    longest: float
    says: str


@contextmanager
def hung(script: Path, *arguments: str) -> Iterator[tuple[int, float, subprocess.Popen[str]]]:
    """A child that stands still: its pid and when it began to."""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid, began = parent.stdout.readline().split()
    time.sleep(0.2)  # it is on its way into the lock
    try:
        yield int(pid), float(began), parent
    finally:
        os.kill(int(pid), signal.SIGKILL)
        parent.communicate(timeout=30)


def says(text: str) -> str:
    verdict = any(word in text for word in ("proven", "likely"))
    parts = {"line": "use" in text, "lock": "account_lock" in text, "verdict": verdict}
    return ", ".join(part for part, there in parts.items() if there) or "nothing of it"


def watch(script: Path, folder: Path) -> tuple[float, str]:
    events = folder / f"events-{time.time_ns()}.jsonl"
    with hung(script, str(events)) as (_, began, _):
        while True:
            lines = [json.loads(line) for line in events.read_text().splitlines()]
            found = [line for line in lines if line["event"] == "hang"]
            if found:
                told = datetime.fromisoformat(found[0]["time"]).timestamp()
                return told - began, says(json.dumps(found[0]).replace('"function": "use"', "use"))
            time.sleep(0.01)


def outside(script: Path, command: list[str]) -> tuple[float, str]:
    with hung(script) as (pid, _, _):
        begin = time.perf_counter()
        done = subprocess.run([*command, str(pid)], capture_output=True, text=True, timeout=60)
        return time.perf_counter() - begin, says(done.stdout)


def signalled(script: Path) -> tuple[float, str]:
    """faulthandler's dump, which the program must have asked for beforehand."""
    with hung(script) as (pid, _, parent):
        assert parent.stderr is not None
        begin = time.perf_counter()
        os.kill(pid, signal.SIGUSR1)
        text = ""
        while "<module>" not in text:
            if select.select([parent.stderr], [], [], 30)[0]:
                text += os.read(parent.stderr.fileno(), 1 << 16).decode()
        return time.perf_counter() - begin, says(text)


def measure(rounds: int) -> Iterator[Row]:
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        script = Path(name, "program.py")
        script.write_text(PROGRAM)
        ways: dict[str, Callable[[], tuple[float, str]]] = {
            "watch (1 s of it `hang_after`)": lambda: watch(script, Path(name)),
            "forkproof doctor": lambda: outside(script, [sys.executable, "-m", "forkproof", "doctor"]),
            "pystack remote": lambda: outside(script, [sys.executable, "-m", "pystack", "remote"]),
            "py-spy dump": lambda: outside(script, [str(tools / "py-spy"), "dump", "--pid"]),
            "faulthandler, by a signal": lambda: signalled(script),
        }
        if not shutil.which("py-spy", path=str(tools)):
            del ways["py-spy dump"]
        for tool, way in ways.items():
            some = [way() for _ in range(rounds)]
            times = [seconds for seconds, _ in some]
            yield Row(tool, statistics.median(times), max(times), some[0][1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{'':32} {'median s':>9} {'longest s':>10}  says")
    for row in measure(args.rounds):
        print(f"{row.tool:32} {row.median:9.2f} {row.longest:10.2f}  {row.says}", flush=True)


if __name__ == "__main__":
    main()
