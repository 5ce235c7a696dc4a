"""Watching processes from outside, for next to nothing, until one stands still.

Only /proc is read, and nothing is stopped, while the main thread of every process runs now and then, or waits for something
other than its own process. One whose main thread stands still for `hang_after` seconds on memory that only its own threads
can change is examined. An idle program may stand like that as well, so after each examination that finds no deadlock
the next one of that process waits twice as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from forkproof.doctor.errors import DoctorError, Gone
from forkproof.doctor.examine import examine
from forkproof.doctor.process import Process, Task
from forkproof.doctor.stacks import Reads
from forkproof.model import Diagnosis

_LONGEST_PAUSE = 600.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process, as it was when its main thread began to stand where it does."""

    started: int
    task: Task
    since: float
    pause: float
    """How long to let it stand before it is examined."""
    examined: bool = False


@dataclass(frozen=True, slots=True)
class Alarm:
    """A process that hangs, and for how long its main thread has stood still at least."""

    diagnosis: Diagnosis
    seconds: float


class Lookout:
    """Looks at processes again and again; `processes` tells each time which they are."""

    def __init__(
        self, processes: Callable[[], Iterable[int]], hang_after: float, deputy: Reads | None = None
    ) -> None:
        """`deputy` has the stacks read, where it is not a reader of the lookout's own that is to do it."""
        self._processes = processes
        self._deputy = deputy
        self._hang_after = hang_after
        self._seen: dict[int, _Seen] = {}
        self.refused: DoctorError | None = None
        """Why the last process that could not be looked at could not be."""
        self._refusals: dict[str, bool] = {}

    @property
    def watched(self) -> int:
        """How many processes there were at the last look."""
        return len(self._seen)

    def look(self) -> Iterator[Alarm]:
        """Look once. Yields each process that hangs, once for each wait."""
        current = {}
        for pid in self._processes():
            try:
                seen = self._look_at(pid)
                if seen.since + seen.pause <= time.monotonic() and not seen.examined and _may_hang(seen.task):
                    current[pid] = replace(seen, examined=True, pause=min(seen.pause * 2, _LONGEST_PAUSE))
                    diagnosis = examine(pid, self._deputy)
                    if diagnosis.is_deadlock:
                        yield Alarm(diagnosis, round(time.monotonic() - seen.since, 1))
                else:
                    current[pid] = seen
            except DoctorError as error:
                self.refused = error
                if not isinstance(error, Gone):
                    self._refusals.setdefault(str(error), False)
        self._seen = current

    def told_once(self) -> list[str]:
        """Why processes that are there could not be looked at, or not well enough: what has not been asked for yet."""
        new = [why for why, told in self._refusals.items() if not told]
        self._refusals |= dict.fromkeys(new, True)
        return new

    def _look_at(self, pid: int) -> _Seen:
        with Process(pid) as process:
            started = process.started
            main = process.main_task()
        before = self._seen.get(pid)
        if before and before.started == started:
            if main.is_as(before.task):
                return before
            return _Seen(started, main, time.monotonic(), before.pause)
        return _Seen(started, main, time.monotonic(), self._hang_after)


def _may_hang(task: Task) -> bool:
    return task.call is not None and task.call.is_futex and not task.call.timed
