"""From what threads wait for to a verdict: is this for ever, how do we know, and what is to be done.

Three proofs, the strongest first:

    owner         the lock names a thread that this process does not have, and it is not the thread that forked
    record        the fork's record names this very lock as held by a thread that the fork left behind
    closed-world  every thread of the process waits, without a time limit, on memory that only threads of the process can
                  change; and it was forked, and has not exec'd since, from a process that had more threads

What has the shape of a proof and a hole in it is `likely`: the forebears are not all known, a signal handler might let go. So
is a wait for what a worker of the parent was to do that the fork left behind (workers.py), and a wait that ends by its time limit
alone because what it waits for cannot come.
A thread that waits on purpose (for work, for an event that a signal sets, for another process) is in no deadlock: `none`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forkproof.doctor.objects import Objects
from forkproof.doctor.origin import Lineage
from forkproof.doctor.process import Process, Region, Task
from forkproof.doctor.record import Record
from forkproof.doctor.stacks import Stack
from forkproof.doctor.symbols import nearest
from forkproof.doctor.waits import Wait, in_words
from forkproof.doctor.workers import Lost, knows, served
from forkproof.model import Hazard

# Of glibc (cancelling, setuid), of faults of the program's own (faulthandler), and Ctrl-C.
_NO_HANDLER_OF_PYTHON_CODE = frozenset({2, 4, 5, 6, 7, 8, 11, 32, 33})
_WATCH = "forkproof-watch"  # Forkproof's own thread in a child: it looks, and ends nobody's wait (_c/watch.c)
_FORK = ("fork", "__libc_fork", "_Fork", "__fork")

Strength = Literal["proven", "likely", "unknown", "none"]
Proof = Literal["owner", "record", "closed-world"]
STRENGTHS: tuple[Strength, ...] = ("none", "unknown", "likely", "proven")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one thread's wait."""

    verdict: Strength = "none"
    proof: Proof | None = None
    because: str = ""
    hazard: Hazard | None = None
    in_vain: bool = False
    """The wait ends, by its time limit, and not by what is waited for."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of a process at one moment."""

    process: Process
    tasks: Sequence[Task]
    still: frozenset[int]
    """The threads that have not run between two looks."""
    waits: Mapping[int, Wait]
    stacks: Mapping[int, Stack]
    regions: Sequence[Region]
    lineage: Lineage
    record: Record | None
    objects: Objects | None
    lost: Sequence[Lost]
    """The workers that the fork left behind."""

    def judge(self) -> dict[int, Finding]:
        """The finding on each thread."""
        closed = self._is_closed()
        return {task.tid: self._judge(task, closed) for task in self.tasks}

    def _judge(self, task: Task, closed: bool) -> Finding:
        wait = self.waits[task.tid]
        if task.tid not in self.still or not wait.for_ever:
            # What it joins may yet end; but nobody forks in order to wait for that.
            handler = self._inside_fork(task, wait) if task.tid in self.still else None
            return handler or self._in_vain(task, wait) or Finding()
        found = self._by_owner(wait) or self._by_record(wait)
        if found and found.verdict == "proven":
            return found
        found = found or self._by_worker(task, wait)
        if found and found.verdict == "proven":
            return found
        if closed and (last := self._by_closed_world(task, wait)):
            if found and found.hazard:
                last = replace(last, because=f"{found.because}; {last.because}", hazard=found.hazard)
            return last if not found or last.verdict == "proven" else found
        return found or self._inside_fork(task, wait) or self._otherwise(wait)

    def _in_vain(self, task: Task, wait: Wait) -> Finding | None:
        """It waits for a time, or in an event loop, for what cannot come."""
        if wait.kind == "system":
            return self._by_worker(task, wait)
        if not task.call or not task.call.is_futex or not task.call.timed:
            return None
        found = self._by_owner(wait) or self._by_record(wait) or self._by_worker(task, wait)
        return found and replace(found, verdict="likely", proof=None, in_vain=True)

    # Proof by owner.

    def _by_owner(self, wait: Wait) -> Finding | None:
        if wait.lock and wait.lock.owner:
            return self._by_ident(wait, wait.lock.owner)
        native = wait.native
        if (
            not native
            or native.owner is None
            or native.is_shared
            or native.kind not in ("mutex", "rwlock", "thread")
        ):
            return None
        owner = native.owner
        if owner in {task.inner for task in self.tasks}:
            return None
        where = self._whose(wait)
        if native.kind == "thread":
            if owner == 0:  # it has ended meanwhile, and the wait is about to end
                return None
            return Finding("proven", "owner", f"it joins thread {owner}, and this process has no such thread")
        if owner in self.lineage.forking:
            self_locked = (
                f"thread {owner}, which forked this process, had it at the fork: nobody else can let go of it"
            )
            return Finding("likely", None, f"{where}: {self_locked}")
        missing = f"{where} is held by thread {owner}, and this process has no such thread"
        if self.lineage.origin.forked and not self.lineage.complete:
            return Finding(
                "likely", "owner", f"{missing} (it may be the one that forked: the parent is gone)"
            )
        return Finding("proven", "owner", missing)

    def _by_ident(self, wait: Wait, ident: int) -> Finding | None:
        try:
            holder = self.process.tid_of(ident, self.tasks)
        except LookupError:
            return None
        if holder is not None:
            return None
        assert wait.lock
        because = f"{wait.lock.what} is held by a thread that this process does not have (ident {ident:#x})"
        return Finding("proven", "owner", because)

    def _whose(self, wait: Wait) -> str:
        """The lock's kind, where it lies and under which name."""
        native = wait.native
        assert native
        kind = (
            f"a {native.flavour} {native.kind}"
            if native.kind == "mutex" and native.flavour
            else f"a {native.kind}"
        )
        if kind.startswith("a error"):
            kind = kind.replace("a ", "an ", 1)
        if native.library:
            name = nearest(native.address, native.library, self.regions, f"/proc/{self.process.pid}/root")
            what = f"{kind} ({name})" if name else kind
            return f"{what} in {native.library.rpartition('/')[2]}"
        by = f", taken by {native.caller.library.rpartition('/')[2]}" if native.caller else ""
        return f"{kind} in allocated memory{by}"

    # Proof by record.

    def _by_record(self, wait: Wait) -> Finding | None:
        if not self.record or not wait.native or not self.objects:
            return None
        futex = wait.native.address
        for address, hazard in self.record.addresses:
            same = wait.lock is not None and wait.lock.address == address
            if not same and not self.objects.is_waited_for_at(address, futex, wait.parked):
                continue
            holder = f"thread {hazard.thread.name}" if hazard.thread else "a thread"
            because = f"at the fork {holder} had this lock ({hazard.what}), and no child has that thread"
            certain = (
                hazard.certainty == "certain"
                and hazard.state != "acquiring"
                and not self.record.fork.repaired
            )
            return Finding("proven" if certain else "likely", "record", because, hazard)
        return None

    # By a worker that the fork left behind.

    def _by_worker(self, task: Task, wait: Wait) -> Finding | None:
        gone = next((one for one in self.lost if (one.serves | one.waiters) & wait.things), None)
        if not gone or not self.objects:
            return None
        mine = gone.never and gone.serves & wait.things
        for tid, stack in self.stacks.items():
            if tid == task.tid:
                continue
            if served(stack, self.objects) & (gone.serves | wait.things):
                return None
            relies = tid == self.process.pid or self.waits[tid].things & wait.things
            if not mine and not relies and knows(stack, wait.things, self.objects):
                return None
        assert gone.hazard.thread
        whose = f"the {gone.hazard.what} of the parent (thread {gone.hazard.thread.native_id}), which no child has"
        because = f"that is the work of {whose}"
        if wait.kind == "system":
            loop = wait.things
            tasks = {self.objects.task_of(one) for one in gone.waiters if self.objects.loop_of(one) in loop}
            names = "; ".join(sorted(in_words(task, self.objects) for task in tasks if task))
            because = f"a task of its loop{f' ({names})' if names else ''} awaits the work of {whose}"
        if mine:
            because += "; its executor starts no more threads, and none of those that it has is here"
            return Finding("proven", "owner", because, gone.hazard)
        return Finding("likely", None, because, gone.hazard)

    # Proof by a closed world.

    def _is_closed(self) -> bool:
        """Whether no thread can run again unless another thread of the process wakes it."""
        stuck = {tid for tid, wait in self.waits.items() if wait.for_ever and tid in self.still}
        holder = next((tid for tid, stack in self.stacks.items() if stack.has_gil), None)
        if holder in stuck:
            stuck |= {tid for tid, wait in self.waits.items() if wait.kind == "gil"}
        return stuck >= {task.tid for task in self._program if task.state not in "ZX"}

    @property
    def _program(self) -> list[Task]:
        """The threads of the program."""
        return [task for task in self.tasks if task.name != _WATCH]

    def _by_closed_world(self, task: Task, wait: Wait) -> Finding | None:
        origin = self.lineage.origin
        if not origin.forked:
            return None
        many = len(self._program)
        every = "it is the only thread" if many == 1 else f"all {many} threads wait so, for one another"
        because = f"{every}, and nothing outside of a process can end such a wait"
        handlers = self.process.caught_signals - _NO_HANDLER_OF_PYTHON_CODE
        on_purpose = wait.kind in ("notification", "work")
        if not origin.vanished:
            if not wait.is_lock and on_purpose:
                return None
            return Finding("likely", None, f"{because}; that its parent had other threads is not certain")
        number = f"{origin.vanished} thread{'s' if origin.vanished > 1 else ''}"
        because += f", and its parent had {number} more at the fork"
        if wait.kind == "notification":
            if handlers:
                return None
            return Finding(
                "likely", "closed-world", f"{because}; but a program may wait so on purpose, to be ended"
            )
        if wait.kind == "work":
            return None
        if handlers and task.tid == self.process.pid and wait.kind != "native-call":
            return Finding("likely", "closed-world", f"{because}, except a signal handler")
        return Finding("proven", "closed-world", because)

    # What remains.

    def _inside_fork(self, task: Task, wait: Wait) -> Finding | None:
        """A library's at-fork handler that blocks: the fork has not happened, or has not ended."""
        stack = self.stacks.get(task.tid)
        native = stack.native if stack else ()
        fork = next((at for at, frame in enumerate(native) if frame.symbol in _FORK), None)
        # All that fork() itself calls outside of the C library are such handlers.
        handler = (
            next((frame for frame in native[:fork] if _is_library(frame.library)), None) if fork else None
        )
        if not handler or not task.call or not task.call.is_futex or task.call.timed:
            return None
        name = f"a handler of {handler.library.rpartition('/')[2]}"
        return Finding(
            "likely", None, f"fork() itself does not return: {name} waits in it for {wait.what[10:]}"
        )

    def _otherwise(self, wait: Wait) -> Finding:
        if not wait.is_lock and wait.kind != "vanished-worker":
            return Finding()
        if wait.is_lock and self.lineage.origin.forked:
            return Finding(
                "unknown", None, "the lock does not say who has it, and a thread of this process may"
            )
        return Finding()


def _is_library(path: str) -> bool:
    name = path.rpartition("/")[2]
    return bool(name) and not name.startswith(("libc.so", "libpthread", "ld-", "libpython", "python"))
