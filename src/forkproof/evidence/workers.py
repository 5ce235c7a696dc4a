"""Threads that others rely on, and that a child of a fork does not have: executors' workers, consumers of queues, loops.

The C look notices which threads run a function of the catalogue; here they get their words. Such a thread holds nothing, and
most children never miss it. So it is told once, as possible, and puts no fork at risk by itself. A child remembers
what its own vanished workers served (`remember`), so that whoever finds it standing still can ask whether what it
waits for was theirs (`explains`).
"""

from __future__ import annotations

import gc
import sys
import weakref

from .naming import class_name, place, thread_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

    from ..catalogue import Worker

    Seen = tuple[int, int, int, CodeType, int, dict[str, Any], list[tuple[CodeType, int]]]
    Kept = tuple[int, int, int, dict[str, Any]]


def table(workers: list[Worker]) -> dict[str, tuple[tuple[str, int, bool], ...]]:
    """The catalogue as C wants it: qualified name -> (end of the file's name, entry, told for each user) of each."""
    found: dict[str, tuple[tuple[str, int, bool], ...]] = {}
    for index, worker in enumerate(workers):
        for name in worker.run:
            module, _, qualified = name.partition(":")
            found[qualified] = (*found.get(qualified, ()), (module.replace(".", "/"), index, worker.each))
    return found


def hazards(seen: list[Seen], workers: list[Worker]) -> list[dict[str, Any]]:
    """Hazards in their JSON form (docs/events.md), one for each executor, queue or loop that the threads serve."""
    groups: dict[tuple[int, int], list[Seen]] = {}
    for s in seen:
        worker = workers[s[0]]
        if not worker.is_mended() and (served := _served(worker, s[5])) is not _GONE:
            groups.setdefault((s[0], id(served)), []).append(s)
    return [_hazard(workers[index], group) for (index, _), group in groups.items()]


def _hazard(worker: Worker, group: list[Seen]) -> dict[str, Any]:
    _, ident, native_id, _, _, variables, stack = group[0]
    return {
        "kind": "vanished-worker",
        "certainty": "possible",
        "cleared": False,
        "what": _what(worker, _served(worker, variables), _queue(worker, variables), len(group)),
        "thread": {"name": thread_name(ident), "ident": ident, "native_id": native_id},
        "stack": [place(code, at) for code, at in stack],
        "advice": f"a child that needs it {worker.child}; {worker.advice}",
    }


def _what(worker: Worker, served: object, queue: object, threads: int) -> str:
    details = []
    kind = None if served is None else class_name(type(served))
    if kind is not None and kind.rpartition(".")[2] not in worker.what:
        details.append(f"of {kind}")
    if threads > 1:
        details.append(f"{threads} threads")
    waiting = _length(queue)
    if waiting:
        details.append(f"{waiting} waiting in its queue")
    return worker.what + (f" ({', '.join(details)})" if details else "")


_GONE = object()


def _served(worker: Worker, variables: dict[str, Any]) -> object:
    """The executor or the object for which the thread works; _GONE if nobody can ask it for work any more."""
    if worker.executor:
        reference = variables.get(worker.executor)
        executor = reference() if isinstance(reference, weakref.ref) else None
        return _GONE if executor is None or getattr(executor, "_shutdown", False) is True else executor
    return variables.get("self")


def _queue(worker: Worker, variables: dict[str, Any]) -> object:
    if not worker.queue:
        return None
    root, *attributes = worker.queue.split(".")
    found = variables.get(root)
    for attribute in attributes:
        # No property and no __getattr__ of the program's runs.
        found = getattr(found, "__dict__", {}).get(attribute)
    return found


def _length(queue: object) -> int:
    if type(queue).__module__ not in ("queue", "_queue") or not hasattr(queue, "qsize"):
        return 0
    return len(_items(queue))


def _items(queue: object) -> list[object]:
    """What lies in a queue of the standard library, without taking it out or taking its lock."""
    if (
        type(queue).__name__ == "SimpleQueue"
    ):  # in C: a list inside up to 3.12, the items themselves from 3.13 on
        found: list[object] = []
        for item in gc.get_referents(queue):
            if type(item) is list:
                found.extend(item)
            elif not isinstance(item, type):
                found.append(item)
        return found
    return list(getattr(queue, "queue", ()))


# ----------------------------------------------------------------------------------------------------------------------
# In a child


class Vanished:
    """A worker that this process does not have, though what it served is here. Keeps nothing of the program's alive."""

    __slots__ = ("_job", "_queue", "_served", "ident", "mended", "native_id", "thread", "worker")

    def __init__(self, worker: Worker, kept: Kept) -> None:
        _, self.ident, self.native_id, variables = kept
        self.worker = worker
        self.thread = thread_name(self.ident)
        self.mended = False
        self._served = _weak(None if (served := _served(worker, variables)) is _GONE else served)
        self._queue = _weak(_queue(worker, variables))
        self._job = _weak(getattr(variables.get(worker.job), "future", None)) if worker.job else _nothing

    @property
    def what(self) -> str:
        return _what(self.worker, self._served(), None, 1)

    def serves(self, thing: object) -> bool:
        """Whether `thing` is its executor, its queue or the object it worked for, or a future that it was to complete."""
        if thing is None:
            return False
        queue = self._queue()
        if thing is self._served() or thing is queue or thing is self._job():
            return True
        return any(
            getattr(item, "future", None) is thing for item in (_items(queue) if self.worker.job else ())
        )

    def hazard(self) -> dict[str, Any]:
        """The hazard of the fork that it was, without the stack, which is gone with the thread."""
        return {
            "kind": "vanished-worker",
            "certainty": "possible",
            "cleared": False,
            "what": self.what,
            "thread": {"name": self.thread, "ident": self.ident, "native_id": self.native_id},
            "stack": [],
            "advice": f"a child that needs it {self.worker.child}; {self.worker.advice}",
        }


def _nothing() -> None:
    return None


def _weak(thing: object) -> Any:
    try:
        return _nothing if thing is None else weakref.ref(thing)
    except TypeError:
        return _nothing


_vanished: list[Vanished] = []


def remember(kept: list[Kept], workers: list[Worker]) -> list[tuple[Vanished, dict[str, Any]]]:
    """In a child: which workers it does not have. Those of an earlier fork, of a parent of the parent, stay known."""
    found = [(Vanished(workers[k[0]], k), k[3]) for k in kept if not workers[k[0]].is_mended()]
    _vanished.extend(vanished for vanished, _ in found)
    return found


def vanished() -> list[Vanished]:
    """The workers that this process does not have, and that nobody has replaced."""
    return [v for v in _vanished if not v.mended]


def explains(thing: object) -> Vanished | None:
    """The vanished worker for which a thread waits that waits for `thing`: a future, a queue, an executor, an object whose
    method it called. A match is a proof: nobody else will ever complete, empty or answer it."""
    return next((v for v in vanished() if v.serves(thing)), None)


def executors(
    found: list[tuple[Vanished, dict[str, Any]]],
) -> Iterator[tuple[object, object, list[object], list[Vanished]]]:
    """(executor, queue, jobs at hand, workers) of each executor of concurrent.futures among what `remember` returned."""
    base = getattr(sys.modules.get("concurrent.futures.thread"), "ThreadPoolExecutor", None)
    groups: dict[int, tuple[object, object, list[object], list[Vanished]]] = {}
    for gone, variables in found:
        worker = gone.worker
        reference = variables.get(worker.executor) if worker.executor else None
        queue = _queue(worker, variables)
        if base is None or not isinstance(reference, weakref.ref) or queue is None:
            continue
        _, _, jobs, workers = groups.setdefault(id(queue), (reference(), queue, [], []))
        if (job := variables.get(worker.job)) is not None:
            jobs.append(job)
        workers.append(gone)
    yield from groups.values()
