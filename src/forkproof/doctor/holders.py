"""Who of a process has what another of its threads waits for, and where that leads.

A lock that names its owner leads to a thread; so does the end of a thread that is joined. Where that thread waits as well, it
leads on: to one that runs or waits for something else, to a lock that names nobody, or round in a circle, which nobody leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from forkproof.doctor.process import Process, Task
from forkproof.doctor.waits import Wait


class Holders:
    """The threads that have what others wait for. `stuck` are those that only a thread of the process can wake."""

    def __init__(
        self, process: Process, tasks: Sequence[Task], waits: Mapping[int, Wait], stuck: Collection[int]
    ) -> None:
        self._tasks = {task.tid: task for task in tasks}
        self._process = process
        self._waits = waits
        self._stuck = stuck
        inner = {task.inner: task.tid for task in tasks}
        self._of = {
            tid: holder for tid, wait in waits.items() if (holder := _holder(wait, process, tasks, inner))
        }

    def of(self, tid: int) -> int | None:
        """The thread that has what thread `tid` waits for; None where that is nobody here, or is not known."""
        return self._of.get(tid)

    def chain(self, tid: int) -> list[int]:
        """The threads of which each waits for the next, from `tid` on; if it is a circle, the last is one of the others."""
        found = [tid]
        while found[-1] in self._stuck and (holder := self._of.get(found[-1])):
            found.append(holder)
            if holder in found[:-1]:
                break
        return found

    def is_certain(self, chain: Sequence[int]) -> bool:
        """Whether each of these locks was read to be that thread's, and not guessed."""
        locks = (self._waits[tid].lock for tid in chain[:-1])
        return all(lock is None or lock.is_certain for lock in locks)

    def in_words(self, chain: Sequence[int]) -> str:
        """Who has it that the first of the chain waits for, what that one waits for, and so on."""
        clauses = []
        for at, holder in enumerate(chain[1:]):
            wait, name = self._waits[chain[at]], self._process.name_of(self._tasks[holder])
            it = "that" if at else "it"
            has = "has" if self.is_certain(chain[at : at + 2]) else "seems to have"
            begin, link = (
                (f"{name} {has} {it}", " and ") if wait.joined is None else (f"{it} is {name}", ", which ")
            )
            clauses.append(begin if holder in chain[: at + 1] else f"{begin}{link}{self._waits[holder].what}")
        return "; ".join(clauses)


def _holder(wait: Wait, process: Process, tasks: Sequence[Task], inner: Mapping[int, int]) -> int | None:
    if wait.lock and wait.lock.owner:
        try:
            return process.tid_of(wait.lock.owner, tasks)
        except LookupError:
            return None
    if wait.joined is not None:
        return inner.get(wait.joined)
    native = wait.native
    return inner.get(native.owner) if native and native.owner and not native.is_shared else None
