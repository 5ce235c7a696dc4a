"""Threads that others rely on, and that a child of a fork does not have: executors' workers, consumers of queues, loops.

The C look notices which threads run a function of the catalogue; here they get their words. Such a thread holds nothing, and
most children never miss it. So it is told once, as possible, and puts no fork at risk by itself. A child remembers
what its own vanished workers served (`remember`), so that whoever finds it standing still can ask whether what it
waits for was theirs (`explains`).
"""

from __future__ import annotations

import sys
import weakref

from .naming import class_name, places, thread_name
from .paths import follow, items, root
from .within import leads_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType
    from typing import Any

    from ..catalogue import Worker

    Seen = tuple[int, int, int, CodeType, int, dict[str, Any], list[tuple[CodeType, int]]]
    Kept = tuple[int, int, int, dict[str, Any]]


MOST_FRAMES = 10  # from the fork outwards


def table(workers: list[Worker]) -> dict[str, tuple[tuple[str, int], ...]]:
    """The functions of the catalogue as C wants them: qualified name -> (end of the file's name, entry) of each."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for index, worker in enumerate(workers):
        for name in worker.run:
            module, _, qualified = name.partition(":")
            found[qualified] = (*found.get(qualified, ()), (module.replace(".", "/"), index))
    return found


def _is_mended(worker: Worker, forking: FrameType | None) -> bool:
    """Whether the library puts it right in a child itself, of a fork made at `forking`."""
    if worker.is_mended():
        return True
    names = [name.partition(":") for name in worker.mended_by]
    frame = forking if names else None
    for _ in range(MOST_FRAMES):
        if frame is None:
            break
        code = frame.f_code
        for module, _, qualified in names:
            if code.co_qualname == qualified and code.co_filename.endswith(f"/{module.replace('.', '/')}.py"):
                return True
        frame = frame.f_back
    return False


def hazards(
    seen: list[Seen], workers: list[Worker], forking: FrameType | None = None
) -> list[dict[str, Any]]:
    """Hazards in their JSON form (docs/events.md), one for each executor, queue or loop that the threads serve. `forking`: where
    the fork is made."""
    groups: dict[tuple[int, int], list[Seen]] = {}
    for s in seen:
        worker = workers[s[0]]
        if not _is_mended(worker, forking) and (served := _served(worker, s[5])) is not _GONE:
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
        "stack": places(stack),
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
    return next(iter(follow(worker.queue, variables)), None) if worker.queue else None


def _length(queue: object) -> int:
    return len(items(queue)) if hasattr(queue, "qsize") else 0


# ----------------------------------------------------------------------------------------------------------------------
# In a child


class Vanished:
    """A worker that this process does not have, though what it served is here. Keeps nothing of the program's alive."""

    __slots__ = (
        "_in_hand", "_job", "_roots", "_served", "ident", "mended", "native_id", "thread", "worker"
    )  # fmt: skip

    def __init__(self, worker: Worker, kept: Kept) -> None:
        _, self.ident, self.native_id, variables = kept
        self.worker = worker
        self.thread = thread_name(self.ident)
        self.mended = False
        self._served = _weak(None if (served := _served(worker, variables)) is _GONE else served)
        self._job = _weak(getattr(variables.get(worker.job), "future", None)) if worker.job else _nothing
        self._roots = {
            name: _weak(variables.get(name)) for name in map(root, (*worker.awaited, *worker.jobs))
        }
        self._in_hand = {
            id(thing): count for thing in self._awaited() if (count := _in_hand(thing)) is not None
        }

    @property
    def what(self) -> str:
        return _what(self.worker, self._served(), None, 1)

    def _awaited(self) -> list[object]:
        return self._reached(self.worker.awaited)

    def _reached(self, paths: tuple[str, ...]) -> list[object]:
        variables = {name: reference() for name, reference in self._roots.items()}
        return [thing for path in paths for thing in follow(path, variables)]

    def can_be_awaited(self) -> bool:
        """Whether this process has anything by which it could wait for that worker."""
        return any(reference() is not None for reference in self._roots.values())

    def serves(self, thing: object) -> bool:
        """Whether `thing` is what it worked for (an executor, a queue, a loop), or a future that it was to complete."""
        return thing is not None and (
            thing is self._served()
            or thing is self._job()
            or any(thing is other for other in self._awaited())
        )

    def is_to_see_to(self, thing: object) -> bool:
        """Whether a job that was left for it, and that nobody has taken, has to do with `thing`: would notify it, perhaps."""
        return leads_to(self._reached(self.worker.jobs), thing)

    def sources(self) -> list[object]:
        """From where it took its jobs: a queue, a loop. Whoever has that may take them instead."""
        return self._reached(tuple(map(root, self.worker.jobs)))

    def was_last(self, thing: object) -> bool:
        """Whether nothing that has `thing` will ever start another worker to see to it."""
        return (
            self.worker.last
            or thing is self._job()
            or (bool(self.worker.executor) and _is_full(self._served()))
        )

    def is_replaced(self, thing: object) -> bool:
        """Whether more of that queue is in the hands of consumers than was at the fork: of one that lives, then."""
        before, now = self._in_hand.get(id(thing)), _in_hand(thing)
        return before is not None and now is not None and now > before

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


def _in_hand(queue: object) -> int | None:
    """How many items have been taken out of a queue.Queue and are not done; None for what is none."""
    unfinished = getattr(queue, "__dict__", {}).get("unfinished_tasks")
    return unfinished - len(items(queue)) if isinstance(unfinished, int) else None


def _is_full(executor: object) -> bool:
    """Whether a ThreadPoolExecutor starts no more threads: it has as many as it may, by its own count, or is shut down."""
    attributes = getattr(executor, "__dict__", {})
    threads, most = attributes.get("_threads"), attributes.get("_max_workers")
    return executor is None or (type(threads) is set and isinstance(most, int) and len(threads) >= most)


def _weak(thing: object) -> Any:
    try:
        return _nothing if thing is None else weakref.ref(thing)
    except TypeError:
        return _nothing


_vanished: list[Vanished] = []


def remember(
    kept: list[Kept], workers: list[Worker], forking: FrameType | None = None
) -> list[tuple[Vanished, dict[str, Any]]]:
    """In a child: which workers it does not have. Those of an earlier fork, of a parent of the parent, stay known."""
    found = [(Vanished(workers[k[0]], k), k[3]) for k in kept if not _is_mended(workers[k[0]], forking)]
    _vanished.extend(vanished for vanished, _ in found)
    return found


def vanished() -> list[Vanished]:
    """The workers that this process does not have, and that nobody has replaced."""
    return [v for v in _vanished if not v.mended]


def awaited() -> list[Vanished]:
    """Those of them that this process could come to wait for."""
    return [v for v in vanished() if v.can_be_awaited()]


def explains(thing: object) -> Vanished | None:
    """The vanished worker that was to see to `thing`: a future, a queue, an executor, an object whose method was called. Whether
    one that lives does so instead is not asked here (`is_served`)."""
    return next((v for v in vanished() if v.serves(thing)), None)


def left_with(thing: object) -> Vanished | None:
    """The vanished worker that was left a job which has to do with `thing`, a condition or a loop that a thread waits for."""
    return next((v for v in vanished() if v.worker.jobs and v.is_to_see_to(thing)), None)


def is_taken_on(thing: object, living: list[Seen], workers: list[Worker]) -> bool:
    """Whether one of the living workers (`_native.workers()`) has such a job before it."""
    return any(
        leads_to([job for path in workers[seen[0]].jobs for job in follow(path, seen[5])], thing)
        for seen in living
    )


def is_served(thing: object, living: list[Seen], workers: list[Worker]) -> bool:
    """Whether one of the living workers (`_native.workers()`) sees to it."""
    return any(
        thing is other
        for seen in living
        for worker, variables in [(workers[seen[0]], seen[5])]
        for other in (
            _served(worker, variables),
            *(found for path in worker.awaited for found in follow(path, variables)),
        )
    )


def broken(
    found: list[tuple[Vanished, dict[str, Any]]],
) -> Iterator[tuple[object, str, list[object], Vanished]]:
    """(object, its attribute that says why the executor is broken, jobs, worker) of each executor that has work done by other
    processes and is of no use without that worker, among what `remember` returned. None that is broken already."""
    for gone, variables in found:
        path, _, attribute = gone.worker.broken.rpartition(".")
        for keeper in follow(path, variables) if path else ():
            keeper = keeper() if isinstance(keeper, weakref.ref) else keeper
            if getattr(keeper, "__dict__", {}).get(attribute, True) in (None, False):
                yield keeper, attribute, follow(gone.worker.fails, variables), gone


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
