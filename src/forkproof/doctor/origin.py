"""Which process a process was forked from, and what it may have inherited.

The kernel marks a process that has not exec'd since its fork, and gives each program that it starts 16 random bytes, which a
fork copies: a parent that has the same bytes at the same address is the one that the memory came from. Which of its threads
forked is seen by the thread descriptor: the child's main thread goes on with that of the forking thread, at the same address.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from forkproof.doctor.errors import DoctorError
from forkproof.doctor.process import Process, robust_list
from forkproof.model import Origin, Thread


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a process comes from, and what follows for the thread ids in its memory."""

    origin: Origin
    forking: frozenset[int]
    """The ids of the threads that forked it and its forebears: what these held, its main thread now has."""
    complete: bool
    """No other thread can have forked: all forebears are known, up to the program's start."""
    vanished: int = 0
    """How many threads its forebears had, all together, that were there at the forks and did not fork."""
    left: frozenset[int] = frozenset()
    """The threads of `origin.parent`, by the ids that it knows itself, that were there at the fork, without the one that forked."""


def lineage(process: Process) -> Lineage:
    """The origin of `process`, as far as it and its forebears may be looked at."""
    forking: set[int] = set()
    complete = True
    vanished = 0
    origin: Origin | None = None
    left: frozenset[int] = frozenset()
    child = process
    opened: list[Process] = []
    try:
        while child.was_forked:
            try:
                parent = Process(child.parent)
                opened.append(parent)
                tasks = parent.tasks()
                if parent.image is None or parent.image != child.image:
                    complete = False  # the parent has ended, or exec'd: this is somebody else
                    break
            except DoctorError:
                complete = False
                break
            mine = robust_list(child.pid)
            found = [task for task in tasks if mine and robust_list(task.tid) == mine]
            forking |= {task.inner for task in found}
            complete &= len(found) == 1
            # Ids are given in order: of two that were started in the same tick the thread came first.
            older = [task for task in tasks if (task.started, task.tid) < (child.started, child.pid)]
            remained = len([task for task in older if task not in found]) if found else max(0, len(older) - 1)
            vanished += remained
            if child is process:
                left = frozenset(task.inner for task in older if found and task not in found)
                origin = _origin(
                    process,
                    parent=parent.pid,
                    command=parent.command,
                    threads=tuple(Thread(task.name, None, task.tid) for task in tasks),
                    vanished=remained,
                )
            child = parent
        return Lineage(origin or _origin(process), frozenset(forking), complete, vanished, left)
    finally:
        for parent in opened:
            parent.close()


def _origin(process: Process, **known: object) -> Origin:
    age = process.age
    if age is None:
        return Origin(forked=process.was_forked, seconds=None, since=None)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
    return Origin(forked=process.was_forked, seconds=round(age, 2), since=since, **known)  # type: ignore[arg-type]
