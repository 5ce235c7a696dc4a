"""From what threads wait for to a verdict: is this for ever, how do we know, and what is to be done.

Three proofs, the strongest first:

    owner         the lock names a thread that this process does not have, and it is not the thread that forked; or the locks of
                  several name one another's, so that they wait in a circle
    record        the fork's record names this very lock as held by a thread that the fork left behind
    closed-world  every thread of the process waits, without a time limit, on memory that only threads of the process can
                  change; and it was forked, and has not exec'd since, from a process that had more threads

What has the shape of a proof and a hole in it is `likely`: the forebears are not all known, a signal handler might let go. So
is a wait for what a worker of the parent was to do that the fork left behind (workers.py), and a wait that ends by its time limit
alone because what it waits for cannot come.
A thread that waits on purpose (for work, for an event that a signal sets, for another process) is in no deadlock: `none`. That is
said only where it is known what may end the wait; where a lock names nobody, or a thread that the fork left behind may have been
the one to see to it, whether the wait ends is `unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forkproof.doctor.between import Knot
from forkproof.doctor.holders import Holders
from forkproof.doctor.objects import Objects
from forkproof.doctor.origin import Lineage
from forkproof.doctor.process import Process, Region, Task
from forkproof.doctor.record import Record
from forkproof.doctor.stacks import Stack
from forkproof.doctor.symbols import nearest
from forkproof.doctor.waits import Wait, in_words
from forkproof.doctor.workers import Lost, knows, served
from forkproof.model import Hazard

WATCH = "forkproof-watch"  # Forkproof's own thread in a child: it looks, and ends nobody's wait (_c/watch.c)
_FORK = ("fork", "__libc_fork", "_Fork", "__fork")

OUTSIDE = "it is for another process or the system to end that, and those were not looked at"
"""Why it is no deadlock of the process's own; with others it may be in one."""

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
    circle: bool = False
    """Threads of this process wait for one another; no fork needs to have had a part in it."""
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
    knots: Mapping[int, Knot]
    """Of threads that wait for processes: what those do."""
    lost: Sequence[Lost]
    """The workers that the fork left behind."""

    def judge(self) -> dict[int, Finding]:
        """The finding on each thread."""
        stuck = frozenset(tid for tid, wait in self.waits.items() if wait.for_ever and tid in self.still)
        holders = Holders(self.process, self.tasks, self.waits, stuck)
        closed = self._is_closed(stuck)
        # Of those that wait for one another the last is judged first.
        found: dict[int, Finding] = {}
        for task in sorted(self.tasks, key=lambda task: len(holders.chain(task.tid))):
            found[task.tid] = self._judge(task, holders, found, stuck, closed)
        return found

    def _judge(
        self,
        task: Task,
        holders: Holders,
        judged: Mapping[int, Finding],
        stuck: frozenset[int],
        closed: bool,
    ) -> Finding:
        wait = self.waits[task.tid]
        if task.tid not in stuck:
            # What it joins may yet end; but nobody forks in order to wait for that.
            handler = self._inside_fork(task, wait) if task.tid in self.still else None
            if task.state in "Tt":
                goes_on = (
                    f"SIGCONT lets it go on (kill -CONT {self.process.pid}), or the debugger that traces it"
                )
                return Finding("unknown", None, f"{goes_on}; what it waits for besides was not looked at")
            ends = wait.for_ever or task.call is None or task.call.timed or wait.kind == "gil"
            found = handler or self._in_vain(task, wait) or self._between(task, wait)
            return found or Finding(because="" if ends else OUTSIDE)
        found = self._by_owner(wait) or self._by_record(wait)
        if found and found.verdict == "proven":
            return found
        chain = holders.chain(task.tid)
        found = found or self._by_holder(chain, holders, judged) or self._by_worker(task, wait)
        if found and found.verdict == "proven":
            return found
        last = self._by_closed_world(task, wait) if closed else None
        if (
            last
            and last.verdict == "proven"
            and (hole := next((k.hole for k in self.knots.values() if k.hole), ""))
        ):
            last = replace(last, verdict="likely", because=f"{last.because} (but {hole})")
        if last and found and found.hazard:
            last = replace(last, because=f"{found.because}; {last.because}", hazard=found.hazard)
        if last and last.verdict == "proven":
            return last
        return (
            found
            or self._inside_fork(task, wait)
            or last
            or self._of_holder(chain, holders, judged)
            or self._otherwise(wait, stuck)
        )

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

    def _by_holder(
        self, chain: Sequence[int], holders: Holders, judged: Mapping[int, Finding]
    ) -> Finding | None:
        """Who has it waits for ever as well: in a circle with this one, or for something else."""
        if len(chain) == 1:
            return None
        who, last = holders.in_words(chain), chain[-1]
        if last in chain[:-1]:
            if not holders.is_certain(chain):
                because = f"{who} (the symbols of Python, which would tell, are not installed)"
                return Finding("likely", None, because, circle=True)
            if (
                self.process.has_handlers
                and self.process.pid in chain
                and not self._is_native(self.process.pid)
            ):
                because = f"{who}, and only a signal handler might let go of one"
                return Finding("likely", "owner", because, circle=True)
            return Finding("proven", "owner", who, circle=True)
        end = judged[last]
        if end.verdict not in ("proven", "likely") or end.in_vain:
            return None
        verdict = end.verdict if holders.is_certain(chain) else "likely"
        return Finding(verdict, end.proof, f"{who} for ever: {end.because}", end.hazard, end.circle)

    def _is_native(self, tid: int) -> bool:
        return self.waits[tid].kind == "native-call"

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

    def _is_closed(self, stuck: frozenset[int]) -> bool:
        """Whether no thread can run again unless another thread of the process wakes it."""
        holder = next((tid for tid, stack in self.stacks.items() if stack.has_gil), None)
        if holder in stuck:
            stuck |= {tid for tid, wait in self.waits.items() if wait.kind == "gil"}
        stuck |= {tid for tid, knot in self.knots.items() if knot.closed and knot.circle}
        return stuck >= {task.tid for task in self._program if task.state not in "ZX"}

    @property
    def _program(self) -> list[Task]:
        """The threads of the program."""
        return [task for task in self.tasks if task.name != WATCH]

    def _by_closed_world(self, task: Task, wait: Wait) -> Finding | None:
        origin = self.lineage.origin
        many = len(self._program)
        every = "it is the only thread" if many == 1 else f"all {many} threads wait so, for one another"
        if any(knot.what for knot in self.knots.values()):
            every = f"all {many} threads wait, for one another and for processes that wait for this one"
        because = f"{every}, and nothing outside of a process can end such a wait"
        on_purpose = f"{because}; but a program may wait so on purpose, to be ended"
        if wait.kind == "work":
            return None
        if self.process.has_handlers and wait.kind == "notification":
            return Finding(because="the handler of a signal may end that")
        if not origin.forked or not self.lineage.vanished:
            if not wait.is_lock:
                return Finding("unknown", None, on_purpose)
            if self.process.has_handlers and not self._is_native(task.tid):
                return Finding("unknown", None, f"{because}, except a signal handler")
            if not origin.forked:
                return Finding("likely", "closed-world", because)
            if self.left_behind:
                return Finding("likely", None, f"{because}; that its parent had other threads is not certain")
            took = "its parent is not seen to have had another thread, so this one took it itself, perhaps before the fork"
            return Finding("likely", None, f"{because}; {took}")
        count = origin.vanished or self.lineage.vanished
        who = "its parent" if origin.vanished else "a process that it descends from"
        because += f", and {who} had {count} thread{'' if count == 1 else 's'} more at the fork"
        if wait.kind == "notification":
            return Finding("likely", "closed-world", on_purpose)
        if self.process.has_handlers and task.tid == self.process.pid and not self._is_native(task.tid):
            return Finding("likely", "closed-world", f"{because}, except a signal handler")
        return Finding("proven", "closed-world", because)

    # Between processes.

    def _between(self, task: Task, wait: Wait) -> Finding | None:
        """It waits for processes, which may wait for this one."""
        outside, knot = wait.outside, self.knots.get(task.tid)
        if not outside or not knot:
            return None
        seems = "seems to have" if knot.hole else "has"
        died = f"whoever took it {seems} ended without letting go of it" if outside.died else ""
        because = "; ".join(filter(None, (died, knot.what)))
        if not knot.circle or task.tid not in self.still:
            if died and not knot.closed:
                return Finding(
                    "likely", None, f"{died}, unless one that has not taken it lets go of it: {knot.what}"
                )
            return Finding(because=because)
        proof: Proof = "owner" if outside.is_lock else "closed-world"
        idle = not outside.died and (knot.idle or not outside.is_lock)
        if knot.handlers and idle:
            return Finding(because=f"{because}; only the handler of a signal can end that")
        if knot.on_purpose and idle:
            return Finding("unknown", None, f"{because}; a program may wait so on purpose, to be ended")
        doubt = knot.hole or ("the handler of a signal may end that" if knot.handlers else "")
        if doubt:
            return Finding("likely", proof, f"{because} (but {doubt})", circle=True)
        return Finding("proven", proof, because, circle=True)

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

    def _of_holder(
        self, chain: Sequence[int], holders: Holders, judged: Mapping[int, Finding]
    ) -> Finding | None:
        """What is to be said where a thread that may yet let go of it is known to have it."""
        if len(chain) == 1 or chain[-1] in chain[:-1]:
            return None
        who = holders.in_words(chain)
        if not holders.is_certain(chain):
            return Finding(
                "unknown", None, f"{who} (the symbols of Python, which would tell, are not installed)"
            )
        locks = (self.waits[tid].lock for tid in chain[:-1])
        if self.left_behind and any(lock and lock.owner for lock in locks) and chain[1] != self.process.pid:
            doubt = "unless it is one that the fork left behind, whose ident that thread has been given"
            return Finding("unknown", None, f"{who}; {doubt}")
        end = judged[chain[-1]]
        return Finding(end.verdict, None, "; ".join(filter(None, (who, end.because))))

    @property
    def left_behind(self) -> bool:
        """Threads may have been left behind by a fork: as far as is known the parent had some, or it is not known."""
        origin = self.lineage.origin
        return origin.forked and (bool(self.lineage.vanished) or not self.lineage.complete)

    def _otherwise(self, wait: Wait, stuck: frozenset[int]) -> Finding:
        """What is to be said where it is not known who is to end the wait."""
        if wait.is_lock:
            if wait.lock and wait.lock.owner:
                return Finding("unknown", None, "which thread has it could not be told")
            return Finding(
                "unknown", None, "the lock does not say who has it, and a thread of this process may"
            )
        if wait.kind == "work" or not self.left_behind:
            return Finding(because="" if wait.kind == "work" else "a thread of this process may see to it")
        for tid, stack in self.stacks.items():
            if tid not in stuck and self.objects and knows(stack, wait.things, self.objects):
                name = self.process.name_of(next(task for task in self.tasks if task.tid == tid))
                return Finding(because=f"{name} has it at hand, and {self.waits[tid].what}")
        return Finding(
            "unknown",
            None,
            "whether a thread of this process is to see to it, or one that the fork left behind, is not seen",
        )


def _is_library(path: str) -> bool:
    name = path.rpartition("/")[2]
    return bool(name) and not name.startswith(("libc.so", "libpthread", "ld-", "libpython", "python"))
