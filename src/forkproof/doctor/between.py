"""Between processes: who can end a wait that a process is to end, what those do, and whether any of them ever will.

A thread that waits for a file's lock, for the other end of a pipe, of a unix socket or of a TCP connection by the loopback, for a
child's end or for a lock of multiprocessing's waits for certain processes, which the kernel tells; one that waits on memory of its
own, for its own. A set of processes in which each thread waits without a limit for processes of the set, and for nobody else, is a
closed world: nothing in it happens again. Of such a set only those are in a deadlock that wait for one another in a circle; the
others are behind it.

It is read while the processes run. So each must have stood still from before to after, and where a process may have a hand
in it that was not seen (`hole`), nothing is proven. A descriptor of a device, a network or a named pipe leads out of the world.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property

from forkproof.doctor import filelocks
from forkproof.doctor.descriptors import Descriptors, tcp_peer, unix_peer
from forkproof.doctor.errors import DoctorError
from forkproof.doctor.process import Process, Task, children_of, status
from forkproof.doctor.semaphores import Shared, sharers

_READS = ("read", "recvfrom", "recvmsg")
_WRITES = ("write", "writev", "sendto", "sendmsg")
_ALL, _ONE, _BY_DESCRIPTOR = 0, 1, 3  # P_ALL, P_PID, P_PIDFD of waitid(2)
_MOST_PROCESSES = 64
_MOST_DESCRIPTORS = 256
_MOST_SELECTED = 1024  # FD_SETSIZE
_MOMENT = 0.05
_NAMED = 3  # processes, in words


@dataclass(frozen=True, slots=True)
class Outside:
    """A wait that processes are to end; the one that waits may be among them."""

    kind: str
    """`file-lock`, `process-lock`, `pipe`, `child`, `shared` (memory of several processes) or `memory` (of its own)."""
    what: str
    """What comes after the words for the system call; for a lock, instead of them."""
    groups: tuple[frozenset[int], ...]
    """It ends only when of each of these groups one process acts."""
    hole: str = ""
    """Who else may be able to end it, and was not seen."""
    died: bool = False
    """Whoever took the lock has ended."""

    @property
    def enders(self) -> frozenset[int]:
        """All who are to do something."""
        return frozenset().union(*self.groups)

    @property
    def is_lock(self) -> bool:
        """Somebody has to let go of something."""
        return self.kind in ("file-lock", "process-lock")


@dataclass(frozen=True, slots=True)
class _OtherEnd:
    """The other end of a pipe or a connection."""

    have: frozenset[int]
    """The processes that have it."""
    enders: frozenset[int]
    """Who can end a wait for it."""
    hole: str
    """Who may have it, and was not seen."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One process, with what each of its threads waits for; None for what this module does not follow."""

    process: Process
    tasks: Sequence[Task]
    outside: Mapping[int, Outside | None]


@dataclass(frozen=True, slots=True)
class Knot:
    """What the processes that a thread waits for do."""

    closed: bool
    """None of them ever acts again by itself."""
    circle: bool
    """They wait for the thread's own process in turn."""
    what: str
    """What they do, in words."""
    hole: str = ""
    """Who may act after all, and was not seen."""
    handlers: bool = False
    """One of them has a handler for a signal, or this process has."""
    idle: bool = False
    """One of them waits for data, or for its turn to, as a worker does that has nothing to do."""
    on_purpose: bool = False
    """A main thread among them waits for threads of its own, as one may that waits to be ended."""


@dataclass
class Neighbours:
    """The processes around one, looked at when first asked for."""

    process: Process
    descriptors: Descriptors = field(default_factory=Descriptors)

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        return children_of()

    def outside(self, task: Task) -> Outside | None:
        """Which processes can end the wait of a thread of this process; None where that is not known."""
        return self._outside(self.process, task)

    def _outside(self, process: Process, task: Task) -> Outside | None:
        call = task.call
        if call is None or call.timed or task.state in "RTtZX":
            return None
        if call.is_futex and not call.is_private:
            return self._shared(process, call.address)
        if call.name in ("flock", "fcntl"):
            return self._file_lock(process, task)
        if call.name in ("wait4", "waitid"):
            return self._child(process, call.name, call.arguments)
        if call.name in _READS + _WRITES:
            found = self._other_ends(process, call.arguments[0], call.name in _WRITES)
            if not found:
                return None
            return Outside(
                "pipe", f" whose other end {self._has(found.have, process)}", (found.enders,), found.hole
            )
        if call.name in ("poll", "ppoll") and (numbers := _polled(process, call.arguments)):
            return self._any_of(process, numbers)
        if call.name in ("select", "pselect6") and (numbers := _selected(process, call.arguments)):
            return self._any_of(process, numbers)
        return None

    def _file_lock(self, process: Process, task: Task) -> Outside | None:
        assert task.call
        found = filelocks.holders(task, process.pid, self.descriptors, process.read)
        if not found:
            return None
        file = process.descriptor(task.call.arguments[0])
        first = self.names(sorted(found[0], key=len)[0], process, "or")
        return Outside("file-lock", f"waits for {first} to unlock {file}", *found)

    def _child(self, process: Process, name: str, arguments: tuple[int, ...]) -> Outside | None:
        children = frozenset(self._children.get(process.pid, ()))
        which, who = (arguments[0], arguments[1]) if name == "waitid" else (_ONE, arguments[0])
        pid = who - (1 << 32) if who & 0x80000000 and who < 1 << 32 else who
        pid = pid - (1 << 64) if pid >= 1 << 63 else pid
        if which == _BY_DESCRIPTOR:
            with suppress(OSError, KeyError, ValueError):
                pid, which = int(status(f"/proc/{process.pid}/fdinfo/{who}")["Pid"]), _ONE
        if which == _ONE and pid > 0:
            if process.inner != process.pid:  # it knows its children by other ids
                return None
            children &= {pid}
        return Outside("child", f": {self.names(children, process)}", (children,)) if children else None

    def _any_of(self, process: Process, descriptors: Iterable[tuple[int, bool]]) -> Outside | None:
        found = []
        for number, writes in descriptors:
            if not (one := self._other_ends(process, number, writes)):
                return None
            found.append(one)
        have = frozenset().union(*(one.have for one in found))
        enders = frozenset().union(*(one.enders for one in found))
        hole = next((one.hole for one in found if one.hole), "")
        return Outside("pipe", f" whose other ends {self._has(have, process)}", (enders,), hole)

    def _other_ends(self, process: Process, number: int, writes: bool) -> _OtherEnd | None:
        """Who can let a thread go on that reads from, or writes to, a descriptor."""
        try:
            link = os.readlink(f"/proc/{process.pid}/fd/{number}")
        except OSError:
            return None
        hole = self.descriptors.hole or self.descriptors.in_flight
        if link.startswith("pipe:["):
            have = enders = self.descriptors.other_ends(link, writes)
        elif link.startswith("socket:[") and (peer := _peer(process, int(link[8:-1]))):
            have = self.descriptors.holders(f"socket:[{peer}]")
            # Who shares this end can shut it down; but nobody does that in order to be read.
            enders = have | self.descriptors.holders(link)
        else:
            return None
        if not have:  # then there would be nothing to wait for: somebody has it who is not seen
            return None
        return _OtherEnd(have, enders, hole)

    def _shared(self, process: Process, address: int) -> Outside | None:
        """A semaphore or the like that processes share: anybody who has that memory may end the wait."""
        with suppress(DoctorError):
            for region in process.regions():
                if region.start <= address < region.end and region.is_shared:
                    found, hole = sharers(region)
                    return Outside("shared", "", (found,), hole)
        return None

    def shared_lock(self, books: Shared, kind: str) -> Outside:
        """The wait for a lock of multiprocessing's; `kind` is `shared` where who has it waits for data with it."""
        if books.holders:
            has = self._has(books.holders, self.process)
            return Outside(kind, f", which {has}", (books.holders,), books.hole)
        seen = " that may be looked at" if books.hole else ""
        return Outside(
            "process-lock", f", which no process has{seen}", (books.sharers,), books.hole, died=True
        )

    # In words.

    def _has(self, pids: frozenset[int], process: Process) -> str:
        others = pids - {process.pid}
        me = "this process" if process is self.process else "it"
        if not others:
            return f"only {me} has itself"
        too = f"{me} has itself, and " if process.pid in pids else ""
        return f"{too}{self.names(others, process)} {'has' if len(others) == 1 else 'have'}"

    def names(self, pids: Iterable[int], process: Process, link: str = "and") -> str:
        """Processes by their ids, and by what they are to `process`."""
        some = sorted(pids)
        words = [self.name(pid, process) for pid in some[:_NAMED]]
        more = [f"{len(some) - _NAMED} more"] if len(some) > _NAMED else []
        *first, last = words + more
        return f"{', '.join(first)} {link} {last}" if first else last

    def name(self, pid: int, process: Process) -> str:
        """A process by its id, and by what it is to `process`."""
        if pid == process.pid:
            return "this process itself" if process is self.process else "itself"
        if pid == self.process.pid:
            return f"process {pid} (this one)"
        with suppress(DoctorError, OSError):
            if pid == process.parent:
                return f"process {pid} (its parent)"
            with open(f"/proc/{pid}/comm", errors="replace") as file:
                comm = file.read().strip()
            whose = "its child, " if pid in self._children.get(process.pid, ()) else ""
            return f"process {pid} ({whose}{comm})"
        return f"process {pid}"

    # What they do.

    def knot(
        self, tasks: Sequence[Task], outside: Mapping[int, Outside | None], still: frozenset[int]
    ) -> Mapping[int, Knot]:
        """For each thread of this process that waits for processes: what those do. `still` are those that have not run."""
        asked = {tid: one for tid, one in outside.items() if one}
        if not any(one.kind != "memory" for one in asked.values()):
            return {}
        with ExitStack() as opened:
            # It was stopped to read its native stacks: its threads have been switched, and wait as before.
            before = {task.tid: task for task in tasks if task.tid in still}
            fresh = [task for task in self.process.tasks() if task.tid in outside]
            still = frozenset(task.tid for task in fresh if _waits_as(task, before.get(task.tid)))
            looks = {self.process.pid: _Look(self.process, fresh, outside)}
            queue = sorted(set().union(*(one.enders for one in asked.values())) - looks.keys())
            while queue and len(looks) < _MOST_PROCESSES:
                pid = queue.pop(0)
                if pid in looks:
                    continue
                with suppress(DoctorError):
                    look = self._look(opened.enter_context(Process(pid)))
                    looks[pid] = look
                    queue += sorted(frozenset().union(*(one.enders for one in look.outside.values() if one)))
            time.sleep(_MOMENT)
            dead = {pid for pid, look in looks.items() if self._stands(look, still)}
            while falls := {
                pid for pid in dead if not all(_is_stuck(one, dead) for one in looks[pid].outside.values())
            }:
                dead -= falls
            return {
                tid: self._judge(tid, one, looks, dead) for tid, one in asked.items() if one.kind != "memory"
            }

    def _look(self, process: Process) -> _Look:
        tasks = [task for task in process.tasks() if task.state not in "ZX"]
        found: dict[int, Outside | None] = {}
        for task in tasks:
            if task.waits_for_ever:
                found[task.tid] = in_memory(process.pid)
            else:
                found[task.tid] = self._outside(process, task)
        return _Look(process, tasks, found)

    def _stands(self, look: _Look, still: frozenset[int]) -> bool:
        """Whether none of a process's threads has run meanwhile."""
        try:
            now = {task.tid: task for task in look.process.tasks() if task.state not in "ZX"}
        except DoctorError:
            return False
        same = {task.tid for task in look.tasks if task.tid in now and now[task.tid].is_as(task)}
        return same >= now.keys() and (look.process is not self.process or still >= now.keys())

    def _judge(self, tid: int, asked: Outside, looks: Mapping[int, _Look], dead: set[int]) -> Knot:
        group = next((group for group in asked.groups if group <= dead), None)
        mine = self.process.pid
        if group is None or mine not in dead:
            return Knot(group is not None, False, self._doing(asked.enders - {mine}, looks, dead))
        reached = list(group)
        found = [asked]
        for pid in reached:
            for one in looks[pid].outside.values():
                assert one
                found.append(one)
                ends = next(group for group in one.groups if group <= dead)
                reached += sorted(ends - set(reached))
        return Knot(
            closed=True,
            circle=mine in reached,
            what=self._chain(reached, looks)
            if mine in reached
            else self._doing(asked.enders - {mine}, looks, dead),
            hole=next((one.hole for one in found if one.hole), ""),
            handlers=any(_has_handlers(looks[pid].process) for pid in reached),
            idle=any(one.kind in ("pipe", "shared") for one in found),
            on_purpose=any((one := looks[pid].outside.get(pid)) and one.kind == "memory" for pid in reached),
        )

    def _chain(self, reached: Iterable[int], looks: Mapping[int, _Look]) -> str:
        others = [pid for pid in reached if pid != self.process.pid]
        clauses = [self._does(looks[pid]) for pid in others[:_NAMED]]
        if len(others) > _NAMED:
            clauses.append(f"and {len(others) - _NAMED} more processes wait for these")
        mine = len(looks[self.process.pid].tasks)
        if not others:
            return (
                "it is its only thread"
                if mine == 1
                else f"all its {mine} threads wait so, or for one another"
            )
        return "; ".join(clauses)

    def _doing(self, pids: Iterable[int], looks: Mapping[int, _Look], dead: set[int]) -> str:
        clauses = []
        for pid in sorted(pids)[:_NAMED]:
            if pid not in looks:
                clauses.append(f"{self.name(pid, self.process)} may not be looked at")
            elif pid in dead and all(one and one.kind == "memory" for one in looks[pid].outside.values()):
                clauses.append(
                    f"process {pid} waits for its own threads only, and all of them wait (see: forkproof doctor {pid})"
                )
            else:
                clauses.append(self._does(looks[pid]))
        return "; ".join(clauses)

    def _does(self, look: _Look) -> str:
        """What a process does: the thread of it that waits for processes, or the main one."""
        task = next(
            (task for task in look.tasks if (one := look.outside[task.tid]) and one.kind != "memory"),
            look.tasks[0],
        )
        found = look.outside[task.tid]
        who = f"process {look.process.pid}"
        if len(look.tasks) > 1:
            who += "'s main thread" if task.tid == look.process.pid else f"'s thread {task.tid}"
        return f"{who} {_words(task, look.process, found)}"


def _waits_as(task: Task, before: Task | None) -> bool:
    """Whether it waits in the same call; one that has a time limit, if an endless one, is restarted after a stop."""
    if before is None or task.call is None or before.call is None:
        return False
    restarted = task.call.name == "restart_syscall" and task.call.arguments == before.call.arguments
    return task.call == before.call or restarted


def in_memory(pid: int) -> Outside:
    """The wait on memory that only process `pid` has."""
    return Outside("memory", "", (frozenset({pid}),))


def _words(task: Task, process: Process, found: Outside | None) -> str:
    if task.state in "Tt":
        return "is stopped by a signal or a debugger"
    if task.call is None:
        return "runs"
    if found and found.kind == "file-lock":
        return found.what
    if found and found.kind == "shared":
        return "waits for a lock or a semaphore that processes share"
    words = task.call.words
    if "{fd}" in words:
        words = words.replace("{fd}", process.descriptor(task.call.arguments[0]))
    return words + (found.what if found and found.kind in ("pipe", "child") else "")


def _is_stuck(one: Outside | None, dead: set[int]) -> bool:
    return one is not None and any(group <= dead for group in one.groups)


def _polled(process: Process, arguments: tuple[int, ...]) -> Iterator[tuple[int, bool]] | None:
    """The descriptors that poll(2) is for, and whether they are to take data; None where they cannot be read."""
    count = arguments[1]
    data = process.read(arguments[0], 8 * count) if 0 < count < _MOST_DESCRIPTORS else b""
    return (
        (
            (number, not events & 1 and bool(events & 4))
            for number, events, _ in struct.iter_unpack("=iHH", data)
            if number >= 0
        )
        if data
        else None
    )


def _selected(process: Process, arguments: tuple[int, ...]) -> Iterator[tuple[int, bool]] | None:
    """Like `_polled`, for select(2): three sets of bits, of which the second is for those that are to take data."""
    count, *sets = arguments[:4]
    if not 0 < count <= _MOST_SELECTED:
        return None
    size = (count + 63) // 64 * 8  # the kernel's words
    found = [(process.read(address, size), at == 1) for at, address in enumerate(sets) if address]
    if not all(data for data, _ in found):
        return None
    chosen = [
        (number, writes)
        for data, writes in found
        for number in range(count)
        if data[number // 8] >> number % 8 & 1
    ]
    return iter(chosen) if chosen else None


def _peer(process: Process, inode: int) -> int | None:
    return unix_peer(inode) or tcp_peer(process.pid, inode)


def _has_handlers(process: Process) -> bool:
    try:
        return process.has_handlers
    except DoctorError:
        return True
