"""Workers that the fork left behind, as the parent still has them: who was to do what a thread of the child waits for.

A parent's thread that is older than the child, and that runs a function of the catalogue (catalogue/workers.toml), serves an
executor, a queue or a loop. The child has those too, at the same addresses, and not the thread. Which futures and queues are
meant is read in the child's memory, so that what it asked for since the fork counts, and what is done does not.

What the parent's thread runs now it may not have run at the fork, and somebody else may yet see to the thing. So this is a
likely cause, unless the child's own copy of an executor says that all its threads are gone and that it starts no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from forkproof import catalogue
from forkproof.catalogue import Worker
from forkproof.doctor.objects import Objects
from forkproof.doctor.origin import Lineage
from forkproof.doctor.stacks import PythonFrame, Reads, Stack, Unreadable
from forkproof.model import Frame, Hazard, Thread

# From a future to what waits for it: of several at once a waiter, in an event loop a future of that loop.
_WAITERS = ("_waiters[]", "_done_callbacks[].destination")


@dataclass(frozen=True, slots=True)
class Lost:
    """What one worker served that the child does not have."""

    hazard: Hazard
    serves: frozenset[int]
    """The executor, the queue, the loop, and futures that it was to complete."""
    waiters: frozenset[int]
    """What waits for such futures, perhaps among others: the waiter of several, the future of an event loop, and the loop."""
    never: bool
    """The child's own books say that nobody will ever complete those futures."""


def lost(lineage: Lineage, inside: Iterable[int], objects: Objects, reader: Reads) -> list[Lost]:
    """The workers of the parent that the process does not have whose own thread ids are `inside`, and whose memory `objects` reads."""
    parent = lineage.origin.parent
    if parent is None or not lineage.left:
        return []
    try:
        found = reader.read(parent, stop=False).threads
    except Unreadable:  # it has ended, or does not stand still for long enough
        return []
    have = frozenset(inside)
    return [
        Lost(
            _hazard(worker, stack),
            serves := _serves(worker, frame, objects),
            _waiters(serves, objects),
            _never(worker, frame, have, objects),
        )
        for tid, stack in found.items()
        if tid in lineage.left
        for worker, frame in _at_work(stack)
    ]


def served(stack: Stack, objects: Objects) -> frozenset[int]:
    """What a thread of the process itself sees to, and what waits for that."""
    serves = frozenset().union(*(_serves(worker, frame, objects) for worker, frame in _at_work(stack)))
    return serves | _waiters(serves, objects)


def knows(stack: Stack, things: frozenset[int], objects: Objects) -> bool:
    """Whether a thread has one of these at hand.

    In a variable, in an attribute of one, by a method of it, or in what a function that one of these is encloses or names.
    """
    for frame in stack.python:
        for variable in frame.variables.values():
            address = variable.address
            near = {address, objects.bound_to(address), *objects.attributes(address).values()}
            near |= {thing for one in near if objects.kind(one) == "tuple" for thing in objects.items(one)}
            if near & things or any(objects.used_by(one) & things for one in near):
                return True
    return False


def _at_work(stack: Stack) -> Iterator[tuple[Worker, PythonFrame]]:
    for worker in catalogue.all_workers():
        if not worker.awaited:
            continue
        for name in worker.run:
            module, _, qualified = name.partition(":")
            file, function = f"/{module.replace('.', '/')}.py", qualified.rpartition(".")[2]
            for frame in stack.python:
                if frame.function == function and frame.file.endswith(file):
                    yield worker, frame
                    break


def _serves(worker: Worker, frame: PythonFrame, objects: Objects) -> frozenset[int]:
    variables = _variables(frame)
    things = {thing for path in worker.awaited for thing in objects.follow(path, variables)}
    return frozenset(things | {_executor(worker, variables, objects)} - {0})


def _waiters(things: frozenset[int], objects: Objects) -> frozenset[int]:
    found = {
        waiter
        for path in _WAITERS
        for thing in things
        for waiter in objects.follow(f"thing.{path}", {"thing": thing})
    }
    return frozenset(found | {objects.loop_of(waiter) for waiter in found} - {0})


def _executor(worker: Worker, variables: Mapping[str, int], objects: Objects) -> int:
    return objects.referent(variables.get(worker.executor, 0)) if worker.executor else 0


def _never(worker: Worker, frame: PythonFrame, have: frozenset[int], objects: Objects) -> bool:
    """Whether none of an executor's threads is here, and there are as many as it may have, so that it starts no more."""
    executor = _executor(worker, _variables(frame), objects)
    threads = objects.inside(executor, "_threads") if executor else 0
    most = objects.number(objects.inside(executor, "_max_workers")) if executor else None
    if not threads or not most or (objects.length(threads) or 0) < most:
        return False
    ids = [objects.number(objects.inside(thread, "_native_id")) for thread in objects.items(threads)]
    return len(ids) >= most and all(one is not None and one not in have for one in ids)


def _variables(frame: PythonFrame) -> dict[str, int]:
    return {name: variable.address for name, variable in frame.variables.items()}


def _hazard(worker: Worker, stack: Stack) -> Hazard:
    return Hazard(
        kind="vanished-worker",
        certainty="possible",
        what=worker.what,
        thread=Thread(stack.name or f"thread {stack.tid}", None, stack.tid),
        stack=tuple(Frame(frame.file, frame.line, frame.function) for frame in stack.python),
        advice=f"a child that needs it {worker.child}; {worker.advice}",
    )
