"""What a look of the doctor costs the process that it looks at: its throughput, and its longest pause.

    doctor_cost.py [SECONDS]

A process counts the pieces of work that it has done, in memory that is shared with this one. In turns, a second each, it is
left alone and looked at once; each second with a look is compared with the mean of the two beside it, so that what else the
machine does, and does not change from one second to the next, falls out. `clock` is the median of those ratios for the work
done in a second, with an interval (a bootstrap over the pairs, 95 %): all that the process loses, also to the doctor's own need
of a processor, which on a machine without a free one is most of it. `served` is that for the work done in a second for which
the process did not queue for a processor (as the kernel counts it): what it would lose where there is a free one. `stopped`:
for how long a look stopped the process, as its `TracerPid` in /proc has it.

Two processes: one all of whose threads are busy, which is read while it runs; and one in which a thread stands still as well,
which is stopped for the reading.
"""

from __future__ import annotations

import mmap
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from forkproof.doctor.examine import examine
from forkproof.model import Diagnosis

BUSY = """
import mmap, struct, sys, threading, time
if sys.argv[1] == "with a thread that stands still":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
shared = mmap.mmap(int(sys.argv[2]), 16)
put, get = struct.Struct("d").pack_into, struct.Struct("d").unpack_from
done, last = 0, time.monotonic()
while True:
    for _ in range(2000): pass
    done += 1
    now = time.monotonic()
    put(shared, 0, done)
    if now - last > get(shared, 8)[0]:
        put(shared, 8, now - last)
    last = now
"""
SECOND = 1.0


@dataclass
class Row:
    """What the process did in one second."""

    work: float
    queued: float
    longest: float
    stopped: float


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 61
    print(
        f"{'process':32} {'looks':>5} {'clock':>6} {'95 %':>13} {'served':>10} {'95 %':>13} {'longest pause':>21} {'stopped':>9}"
    )
    for kind in ("all threads busy", "with a thread that stands still"):
        rows = measure(kind, seconds)
        alone, looked = rows[::2], rows[1::2]
        clock = ratios([row.work for row in rows])
        served = ratios([row.work / (1 - row.queued) for row in rows])
        pauses = " to ".join(
            f"{statistics.median(row.longest for row in some) * 1000:.0f}" for some in (alone, looked)
        )
        stopped = statistics.median(row.stopped for row in looked) * 1000
        print(
            f"{kind:32} {len(clock):5} {middle(clock):>20} {middle(served):>24} {pauses:>18} ms {stopped:6.0f} ms"
        )


def ratios(values: Sequence[float]) -> list[float]:
    """Each second with a look by the mean of the two beside it."""
    return [
        values[at] * 2 / (values[at - 1] + values[at + 1])
        for at in range(1, len(values) - 1, 2)
        if values[at - 1] + values[at + 1]
    ]


def middle(values: Sequence[float]) -> str:
    """The median, and its interval."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return f"{statistics.median(values):.3f}  ({medians[50]:.3f}-{medians[1949]:.3f})"


def measure(kind: str, seconds: int) -> list[Row]:
    """One row a second; every other one has a look in it."""
    rows: list[Row] = []
    with tempfile.TemporaryFile() as file:
        file.truncate(16)
        shared = mmap.mmap(file.fileno(), 16)
        command = [sys.executable, "-c", BUSY, kind, str(file.fileno())]
        process = subprocess.Popen(command, pass_fds=[file.fileno()])
        try:
            while not read(shared)[0]:
                time.sleep(0.01)
            for second in range(seconds | 1):
                struct.pack_into("d", shared, 8, 0.0)
                began, done, queued = time.monotonic(), read(shared)[0], queueing(process.pid)
                stopped = watch(process.pid)[1] if second % 2 else 0.0
                time.sleep(max(0.0, began + SECOND - time.monotonic()))
                work, longest = read(shared)
                length = time.monotonic() - began
                rows.append(
                    Row(
                        (work - done) / length,
                        (queueing(process.pid) - queued) / length,
                        longest,
                        stopped,
                    )
                )
        finally:
            process.kill()
            process.wait()
            shared.close()
    return rows


def watch(pid: int) -> tuple[Diagnosis, float]:
    """Look at the process once: what the doctor says, and the seconds for which that stopped it."""
    stopped = 0.0
    with ThreadPoolExecutor(1) as pool:
        look = pool.submit(examine, pid)
        while not look.done():
            if is_traced(pid):
                began = time.monotonic()
                while is_traced(pid):
                    time.sleep(0.0005)
                stopped += time.monotonic() - began
            time.sleep(0.0005)
    return look.result(), stopped


def read(shared: mmap.mmap) -> tuple[float, float]:
    """Pieces of work done, and the longest time that one of them took since that was last set to zero."""
    work, longest = struct.unpack("dd", shared[:16])
    return work, longest


def queueing(pid: int) -> float:
    """Seconds for which the process's main thread could have run and had no processor."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def is_traced(pid: int) -> bool:
    """Whether a tracer has stopped the process, or is about to."""
    with open(f"/proc/{pid}/status") as file:
        return "TracerPid:\t0\n" not in file.read()


if __name__ == "__main__":
    main()
