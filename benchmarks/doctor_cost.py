"""What a look of the doctor costs the process that it looks at: its throughput, and its longest pause.

    doctor_cost.py [SECONDS]

A process counts in a loop and notes how long each thousandth of a second's work took. It is left alone, then looked at once
a second, in turns. Two processes: one all of whose threads are busy, which is read while it runs; and one in which a thread
stands still as well, which is stopped for the reading. `stopped` is for how long that was, as its `TracerPid` in /proc has it.
On a machine that is busy with other things the ratio and the pause say little, `stopped` says a little more.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from forkproof.doctor import examine

BUSY = """
import sys, threading, time
if sys.argv[1] == "with a thread that stands still":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
def report():
    while True:
        until, done, longest, last = time.monotonic() + 1, 0, 0.0, time.monotonic()
        while last < until:
            for _ in range(2000): pass
            done += 1
            now = time.monotonic()
            longest = max(longest, now - last)
            last = now
        print(done, longest, flush=True)
report()
"""


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(
        f"{'process':34} {'looks':>6} {'work a second':>14} {'ratio':>6} {'longest pause':>14} {'stopped':>9}   (medians)"
    )
    for kind in ("all threads busy", "with a thread that stands still"):
        alone, looked = measure(kind, seconds)
        base = statistics.median(row.work for row in alone)
        for name, rows in (("none", alone), ("1 /s", looked)):
            work = statistics.median(row.work for row in rows)
            pause, stopped = (
                statistics.median(value) * 1000
                for value in ([row.longest for row in rows], [row.stopped for row in rows])
            )
            print(f"{kind:34} {name:>6} {work:14.0f} {work / base:6.3f} {pause:11.1f} ms {stopped:6.1f} ms")


@dataclass
class Row:
    """One second."""

    work: int
    longest: float
    stopped: float


def measure(kind: str, seconds: int) -> tuple[list[Row], list[Row]]:
    """The seconds in which the process was left alone, and those in which it was looked at."""
    rows: tuple[list[Row], list[Row]] = ([], [])
    process = subprocess.Popen([sys.executable, "-c", BUSY, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        process.stdout.readline()  # it has started
        for second in range(seconds):
            look, stopped = None, 0.0
            if second % 2:
                look = threading.Thread(target=examine, args=(process.pid,))
                look.start()
                while look.is_alive():
                    if is_traced(process.pid):
                        began = time.monotonic()
                        while is_traced(process.pid):
                            time.sleep(0.0005)
                        stopped += time.monotonic() - began
                    time.sleep(0.0005)
            done, longest = process.stdout.readline().split()
            rows[second % 2].append(Row(int(done), float(longest), stopped))
    finally:
        process.kill()
        process.wait()
    return rows


def is_traced(pid: int) -> bool:
    """Whether a tracer has stopped the process, or is about to."""
    with open(f"/proc/{pid}/status") as file:
        return "TracerPid:\t0\n" not in file.read()


if __name__ == "__main__":
    main()
