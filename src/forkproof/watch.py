"""A child that stands still: what each of its threads waits for, matched with what the fork left behind.

The looking is done by a thread in C (`_c/watch.c`) that mostly sleeps, and only in children of forks that left something
behind: a lock at risk, a worker or native threads that the child could come to wait for. When a thread has waited for the same
thing for `hang_after` seconds, `_judge` is asked. A hang is said only for a reason, and the reason decides the verdict:

proven by record        the very lock (import, file) that the fork's record says a thread held that is not here; it has been
                        locked at every look since, and no thread of this process is seen to have it. Or the future, queue or
                        object that a worker was to see to which is not here, and nothing will ever start another
proven by owner         the lock itself names an owner that is not here: an RLock, a module lock, a file, a mutex of the C library
proven by closed world  every thread here waits without time-out, none has run since, there are no others: nothing can wake any
likely                  it fits the record, and could have another cause: a queue that lost its consumer may yet get one

Anything else is not said: a slow server, an idle worker and a thread that waits for a live one stand still as well.

Guarantees: imports nothing, takes no lock but the interpreter's own, and never raises into the program; what fails here is
said once, and the watch ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the half of `signal` in C, which is always there
import fcntl
import os
import stat
import sys
import threading
import time
import weakref

from . import catalogue
from ._events import _encoded, now
from .evidence import asking, intent, naming, pools, workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._events import Writer
    from ._native import Sighting, Waiting

try:
    from . import _native
except ImportError:
    _native = None  # type: ignore[assignment]

NONE, CONDITION, THREAD, QUEUE, POLL = 7, 8, 9, 10, 11
_KINDS = {
    **naming.KINDS,
    NONE: "native-call",
    CONDITION: "condition",
    THREAD: "thread",
    QUEUE: "queue",
    POLL: "native-call",
}
_LOCKS = (naming.LOCK, naming.RLOCK)
_KEPT = (
    naming.LOCK,
    naming.RLOCK,
    naming.IMPORT,
)  # to keep one of these alive changes nothing for the program

MOST_NAMED = 5  # of those that stayed behind

ADVICE_CLOSED = (
    "start in the child, after the fork, what is to wake it (threads, executors, queues and their workers); "
    "a fork copies none of them"
)
ADVICE_NATIVE = (
    "fork before other threads use that library, or start children with multiprocessing's forkserver"
)


class _Orphan:
    """One hazard of the fork, as the child looks for it: the object and who had it. Matched by identity, never by ident."""

    def __init__(self, sighting: Sighting, hazard: dict[str, Any]) -> None:
        self.hazard = hazard
        self.ident, self.native_id, self.state, self.kind = sighting[:4]
        self.certain = bool(sighting[4]) and self.state in (naming.HOLDS, naming.LEAVING, naming.IMPORTING)
        self.entry = sighting[9]
        subject = sighting[7]
        if self.kind in _LOCKS and _is_taken(subject) and not _native.is_locked(subject):
            self.certain = True  # between the look and the fork a thread got it that had waited for it
        # What cannot be referred to is known by its address and class only, and nothing is proven by those.
        self.like: tuple[int, type] | None = None
        self.subject: Callable[[], object] = lambda: None
        if self.kind in _KEPT or callable(subject):
            self.subject = lambda: subject
        else:
            try:
                self.subject = weakref.ref(subject)
            except TypeError:
                self.like = (id(subject), type(subject))
        # What those who wait for a permit sleep on.
        self.condition = vars(subject).get("_cond") if self.kind == naming.SEMAPHORE else None

    def is_(self, subject: object) -> bool:
        if self.like is not None:
            return (id(subject), type(subject)) == self.like
        return self.subject() is subject

    @property
    def permits(self) -> int:
        value = getattr(self.subject(), "_value", None)
        return value if isinstance(value, int) else -1


class _Reason:
    """Why a standstill is a hang."""

    def __init__(
        self,
        verdict: str,
        proof: str | None = None,
        hazard: dict[str, Any] | None = None,
        note: str | None = None,
    ) -> None:
        self.verdict, self.proof, self.hazard, self.note = verdict, proof, hazard, note


class _Watched:
    """What this process was born with. Its own children go on with it."""

    def __init__(self) -> None:
        self.settings: Any = None  # guard's, as they are at the time
        self.hang_after = 5.0
        self.fault: Callable[[str, BaseException | None], None] | None = None
        self.parent: int | None = None
        self.fork: int | None = None
        self.where: dict[str, Any] | None = None
        self.forking = 0  # ident of the thread that forked
        self.orphans: list[_Orphan] = []
        self.locks: list[Any] = []
        self.vanished: dict[int, str] = {}
        self.reported: dict[int, tuple[str, dict[str, Any]]] = {}
        self.in_hooks = False
        self.stderr: tuple[int, int] | None = None


_watched = _Watched()


def prepare() -> None:
    """Tell the extension what waits in C for other threads, by where its time-out stands."""
    assert _native is not None
    waits: dict[Any, tuple[int, int]] = {}
    handle = getattr(sys.modules["_thread"], "_ThreadHandle", None)  # 3.13 on
    if handle is not None:
        waits[handle.join] = (THREAD, 0)
    queue = getattr(sys.modules.get("_queue"), "SimpleQueue", None)
    if queue is not None:
        waits[queue.get] = (QUEUE, 1)
    waits[time.sleep] = (POLL, -1)
    for name in asking.polls(_watched.settings.waits):
        waits[catalogue.resolve(name)] = (POLL, -1)
    waits.pop(None, None)  # of a library that is not loaded
    _native.set_waits(waits)


def begin(
    settings: Any,
    fault: Callable[[str, BaseException | None], None],
    record: dict[str, Any] | None,
    left: list[tuple[Sighting, dict[str, Any]]],
) -> None:
    """In a child, before any other library's callback. `left`: what was at risk when it was forked and is not mended.

    `record` is the fork's event; None for a fork that left nothing behind, of a process that was watched itself: the child of
    such a process was born with what that was born with.
    """
    w = _watched
    w.settings, w.fault, w.hang_after = settings, fault, settings.hang_after
    w.orphans = [orphan for orphan in w.orphans if _is_left(orphan)]
    w.reported = {}
    me = w.forking = threading.get_ident()
    for ident, thread in list(threading._active.items()):  # type: ignore[attr-defined]
        if ident != me and thread._native_id is not None:
            w.vanished[thread._native_id] = thread._name
    if record is not None:
        assert _native is not None
        _native.keep_record(_encoded(record).encode("utf-8", "backslashreplace"))
        w.parent, w.fork, w.where = record["pid"], record["fork"], record["where"]
        w.orphans += [_Orphan(sighting, hazard) for sighting, hazard in left]
    w.locks = []
    for orphan in w.orphans:
        lock = orphan.subject() if orphan.kind in _LOCKS else None
        if lock is not None and _is_taken(lock) and not any(lock is other for other in w.locks):
            w.locks.append(lock)
    try:
        status = os.fstat(2)
        w.stderr = (status.st_dev, status.st_ino)
    except OSError:
        w.stderr = None
    w.in_hooks = True
    left_behind = (
        record is not None or w.orphans or workers.awaited() or pools.left_behind() or intent.left_behind()
    )
    if not left_behind or w.hang_after == float("inf"):
        return
    _start()


def _start() -> None:
    assert _native is not None
    prepare()
    every = min(max(_watched.hang_after / 8, 0.02), 0.75)
    _native.watch_start(_judge, _watched.locks, _watched.hang_after, every)


def _is_left(orphan: _Orphan) -> bool:
    """Whether the process that forked had not seen it mended, as far as that can be seen."""
    if orphan.kind == naming.IMPORT:
        return getattr(orphan.subject(), "owner", orphan.ident) == orphan.ident
    return orphan.kind not in _LOCKS or any(orphan.is_(lock) for lock in _watched.locks)


def has_begun() -> bool:
    """Whether `begin` was called at the fork whose callbacks are running."""
    return _watched.in_hooks


def settled() -> None:
    """All at-fork callbacks have run: what is free now was mended by one of them."""
    _watched.in_hooks = False
    _watched.locks[:] = [lock for lock in _watched.locks if _is_taken(lock)]


def _is_taken(lock: Any) -> bool:
    assert _native is not None
    return _native.is_taken(lock)


# ----------------------------------------------------------------------------------------------------------------------
# The judgement, in the watch's thread


def _judge(
    waits: list[Waiting], seen: list[Sighting], threads: int, locks: list[Any], gone: list[int]
) -> list[int] | None:
    """Called with every thread's wait, what each holds, how many threads there are, the orphaned locks that have never
    been seen free, and the reported waits that are over. Returns whose waits were reported now; None ends the watch."""
    try:
        for thread in gone:
            _resolved(thread)
        reasons = _reasons(waits, seen, threads, locks)
        for wait in waits:
            if wait[0] in reasons and wait[0] not in _watched.reported:
                _report(wait, reasons[wait[0]])
        return [wait[0] for wait in waits if wait[0] in _watched.reported]
    except Exception as error:
        if _watched.fault is not None:
            _watched.fault("watch", error)
        return None


def _reasons(
    waits: list[Waiting], seen: list[Sighting], threads: int, locks: list[Any]
) -> dict[int, _Reason]:
    holders: dict[int, set[int]] = {}
    for sighting in seen:
        if sighting[2] in (naming.HOLDS, naming.LEAVING) or (sighting[2] == naming.IMPORTING and sighting[4]):
            holders.setdefault(id(sighting[7]), set()).add(sighting[0])
    # Where there are threads that Python does not know, or that have no frame now, whether an ident lives cannot be told.
    assert _native is not None
    all_known = threads == len(waits) and _native.count_threads() == threads + 1
    live = {wait[5][0] for wait in waits} if all_known else None
    standing = [wait for wait in waits if wait[1] >= _watched.hang_after]
    reasons: dict[int, _Reason] = {}
    for wait in standing:
        if wait[5][3] in (naming.CALL, NONE):
            reason = (
                _compiled_reason(wait[5], waits, holders, locks)
                or _native_reason(wait[5], waits)
                or _idle_loop(wait, waits)
            )
        else:
            reason = _reason(wait, waits, holders, live, locks)
        if reason is not None:
            reasons[wait[0]] = reason
    _follow(standing, holders, reasons)
    if all_known:
        _close_world(waits, reasons)
    return reasons


def _reason(
    wait: Waiting, waits: list[Waiting], holders: dict[int, set[int]], live: set[int] | None, locks: list[Any]
) -> _Reason | None:
    _thread, _seconds, still, _forever, owner, sighting = wait
    kind, subject = sighting[3], sighting[7]
    matching = [orphan for orphan in _watched.orphans if orphan.kind == kind and orphan.is_(subject)]
    if kind == CONDITION:
        for orphan in _watched.orphans:
            if orphan.condition is subject and orphan.permits == 0 and id(orphan.subject()) not in holders:
                return _Reason("likely", None, orphan.hazard)
        return _without_pool(wait) or _unanswered(wait, waits)
    if kind == QUEUE:
        return _left_undone(wait, [subject], waits)
    if kind == POLL:
        return _polled(wait, waits)
    if kind == naming.IMPORT:
        owner = getattr(subject, "owner", None) or 0
    if kind == naming.BUFFERED and not owner and matching and still >= _watched.hang_after:
        # Who gets it says so as soon as it has the GIL; who has it has never come to that.
        return _Reason("likely", None, matching[0].hazard)
    if not owner or id(subject) in holders:
        return None
    sure = [orphan for orphan in matching if orphan.certain and orphan.like is None]
    never_free = any(subject is lock for lock in locks)
    if kind == naming.FOREIGN:
        # Held in compiled code, which no frame shows: only where there is no other thread to hold it.
        return _Reason("likely", None, matching[0].hazard) if matching and live == {sighting[0]} else None
    if kind == naming.LOCK or (kind == naming.RLOCK and owner == 1):
        if not never_free:
            return None
        if sure:
            return _Reason("proven", "record", sure[0].hazard)
        # It was being acquired by a thread that is gone, and was locked from the first moment on. Only the forking thread
        # could have had it as well, out of sight; and that one is waiting for it here.
        if matching and _is_main(sighting):
            return _Reason("likely", None, matching[0].hazard)
        return None
    for orphan in sure:
        if owner == orphan.ident and (never_free or kind != naming.RLOCK):
            return _Reason("proven", "record", orphan.hazard)
    if live is not None and owner not in live:
        return _Reason("proven", "owner", matching[0].hazard if matching else None)
    return None


def _unanswered(wait: Waiting, waits: list[Waiting]) -> _Reason | None:
    """It waits for what workers were to do that are not here, and nobody in their place."""
    gone: list[tuple[object, workers.Vanished]] = []
    undone: _Reason | None = None
    asked = asking.asked(wait, _watched.settings.waits)
    for candidates in asked:
        found = next(((thing, v) for thing in candidates if (v := workers.explains(thing)) is not None), None)
        if found is not None:
            gone.append(found)
            continue
        undone = _left_undone(wait, candidates, waits)
        if undone is None:
            return None
    if not asked:
        return _left_undone(wait, [wait[5][7]], waits)
    if _is_seen_to([thing for thing, _ in gone], wait[5][0]):
        return None
    if undone is not None:
        return undone
    if all(worker.was_last(thing) for thing, worker in gone):
        return _Reason("proven", "record", gone[0][1].hazard())
    if any(worker.is_replaced(thing) or _may_be_seen_to(thing, waits) for thing, worker in gone):
        return None
    return _Reason("likely", None, gone[0][1].hazard())


def _left_undone(wait: Waiting, things: list[object], waits: list[Waiting]) -> _Reason | None:
    """It has left a job with a worker that is not here, and waits for something that has to do with it, one of `things`. Only of
    the thread that forked: while that one runs, it may be what the others wait for."""
    assert _native is not None
    if wait[5][0] != _watched.forking:
        return None
    living = _native.workers()
    around = asking.called_on(wait, _watched.settings.waits)
    relied_on = _relied_on(wait, [*things, *around], waits)
    if relied_on is not None:
        return relied_on
    for thing in things:
        worker = workers.left_with(thing)
        if (
            worker is not None
            and not workers.is_taken_on(thing, living, _watched.settings.workers)
            and not any(_may_be_seen_to(other, waits) for other in (thing, *around, *worker.sources()))
        ):
            return _Reason("likely", None, worker.hazard())
    return None


def _relied_on(wait: Waiting, things: list[object], waits: list[Waiting]) -> _Reason | None:
    """A thread of the program's own that is not here was to see to one of `things`, and nobody is known who does."""
    found = intent.left_with(things, wait[5][14])
    if found is None:
        return None
    gone, means = found
    if any(_may_be_seen_to(thing, waits) for thing in (*things, *means)) or intent.is_known_to(
        [*things, *means], wait[5][0]
    ):
        return None
    handlers = (_signal.getsignal(number) for number in _signal.valid_signals())
    if any(
        callable(h) and h is not _signal.default_int_handler and intent.would_wake(h, things)
        for h in handlers
    ):
        return None
    return _Reason("likely", None, gone.hazard())


def _polled(wait: Waiting, waits: list[Waiting]) -> _Reason | None:
    """It looks now and then for what they were to do: it may give up some day, so that this is never proven."""
    if not asking.asked(wait, _watched.settings.waits):
        return _without_pool(wait)
    reason = _unanswered(wait, waits)
    return reason and _Reason("likely", None, reason.hazard)


def _without_pool(wait: Waiting) -> _Reason | None:
    """It waits for native threads of a library that are not here, and has none in their place."""
    entry = _entry(wait[5])
    hazard = pools.left_without(entry.pool, _watched.settings.pools) if entry and entry.pool else None
    return _Reason("likely", None, hazard) if hazard else None


def _entry(sighting: Sighting) -> catalogue.Wait | None:
    """What the catalogue says of where it stands."""
    known = _watched.settings.waits
    entry = asking.outermost(sighting[14], known)
    return asking.polled(sighting[7], known) if entry is None and sighting[3] == POLL else entry


def _is_seen_to(things: list[object], waiting: int) -> bool:
    """Whether a worker of this process is there for one of them: not the thread that waits (one party of a Barrier)."""
    assert _native is not None
    living = [worker for worker in _native.workers() if worker[1] != waiting]
    return any(workers.is_served(thing, living, _watched.settings.workers) for thing in things)


def _may_be_seen_to(thing: object, waits: list[Waiting]) -> bool:
    """Whether a thread that was started here knows of it: a consumer between two items, perhaps. Who waits for it does not
    count, nor does the thread that forked, which was there before and relied on another."""
    assert _native is not None
    for wait in waits:
        asks = [other for candidates in asking.asked(wait, _watched.settings.waits) for other in candidates]
        if (
            wait[5][0] != _watched.forking
            and wait[0] in _native.users_of(thing)
            and not any(thing is other for other in asks)
        ):
            return True
    return False


def _idle_loop(wait: Waiting, waits: list[Waiting]) -> _Reason | None:
    """An event loop that has nothing to do but to wait for what it has given to a worker that is not here."""
    loops = [thing for candidates in asking.asked(wait, _watched.settings.waits) for thing in candidates]
    return _left_undone(wait, loops, waits)


def _compiled_reason(
    sighting: Sighting, waits: list[Waiting], holders: dict[int, set[int]], locks: list[Any]
) -> _Reason | None:
    """A lock that compiled code takes, with no instruction to show it: told by the word that the thread sleeps on; and one that is
    of another make, by the library in whose code the thread sleeps, alone."""
    assert _native is not None
    futex = _native.futex_of(sighting[1])
    if futex is None:
        return None
    for lock in locks:
        if _native.address_of_lock(lock) == futex[2] and id(lock) not in holders:
            having = [orphan for orphan in _watched.orphans if orphan.is_(lock)]
            if any(orphan.certain for orphan in having):
                return _Reason("proven", "record", having[0].hazard)
            if having and _is_main(sighting):
                return _Reason("likely", None, having[0].hazard)
    for orphan in _watched.orphans if futex[0] else ():
        lock = _watched.settings.foreign.get(id(orphan.subject())) if orphan.kind == naming.FOREIGN else None
        if lock is not None and [w[5] for w in waits if _is_in(w[5], lock.marker)] == [sighting]:
            return _Reason("likely", None, orphan.hazard)
    return None


def _is_in(sighting: Sighting, marker: str) -> bool:
    return any(marker in code.co_filename for code, _ in sighting[14])


def _native_reason(sighting: Sighting, waits: list[Waiting]) -> _Reason | None:
    """A call in C that stands on a futex: on a mutex of a thread that is gone, or in the call that such a thread was in."""
    assert _native is not None
    futex = _native.futex_of(sighting[1])
    if futex is None:
        return None  # it waits for the system: for a server, a disk, a person
    forever, owner, _ = futex
    if owner and os.path.exists(f"/proc/self/task/{owner}"):
        return None
    if owner in _watched.vanished:
        having = [o.hazard for o in _watched.orphans if o.native_id == owner]
        note = None if having else f"the lock is of thread {_watched.vanished[owner]!r}, which is not here"
        return _Reason("proven", "owner", having[0] if having else None, note)
    if not forever:
        return None
    hazard = pools.explains(sighting[1], [wait[5][1] for wait in waits])
    if hazard is not None:
        return _Reason("likely", None, hazard)
    if sighting[3] != naming.CALL:
        return None
    for wait in waits:
        if wait[5][3] == naming.CALL and wait[5][9] == sighting[9] and _native.futex_of(wait[5][1]) is None:
            return (
                None  # another thread of this process is in the same call and at work: it may have the lock
            )
    for orphan in _watched.orphans:
        if orphan.kind == naming.CALL and orphan.entry == sighting[9] and orphan.is_(sighting[7]):
            return _Reason("likely", None, orphan.hazard)
    return None


def _close_world(waits: list[Waiting], reasons: dict[int, _Reason]) -> None:
    """All threads of the process wait for each other, or for threads that it does not have."""
    for _thread, _seconds, still, forever, _owner, sighting in waits:
        if not forever or still < _watched.hang_after or sighting[3] in (NONE, naming.CALL):
            return
    main = [wait for wait in waits if _is_main(wait[5])]
    handled = _handles_signals()
    for wait in waits:
        reason = reasons.get(wait[0])
        if reason is not None and reason.verdict == "likely" and not handled:
            reason.verdict, reason.proof = "proven", "closed-world"
    if not main or main[0][0] in reasons:
        return
    signalled = main[0][5][3] in (CONDITION, THREAD, QUEUE) or _joins(main[0][5])
    if handled and signalled:
        return  # a handler may be what is to wake it: an idle process that a signal ends
    ends = [wait for wait in waits if wait[0] not in reasons and wait is not main[0]]
    for wait in ends[:3] if _joins(main[0][5]) and ends else main:
        if handled:
            why = "a signal handler of the program's could wake it"
        elif _may_idle(wait[5]):
            why = "no thread here can wake it; but a program may wait so on purpose, for a signal to end it"
        else:
            reasons[wait[0]] = _Reason("proven", "closed-world", None, _stayed_behind())
            continue
        reasons[wait[0]] = _Reason("likely", None, None, "; ".join(filter(None, (why, _stayed_behind()))))


def _stayed_behind() -> str | None:
    """Whoever is to wake a thread of a closed world is one of these: not told which, where nothing is known of what they do."""
    known = workers.vanished()
    others = set(_watched.vanished.values()) - {v.thread for v in known}
    names = [
        *pools.whats_left_behind(),
        *sorted({v.what for v in known}),
        *sorted(f"thread {n!r}" for n in others),
    ]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"stayed behind at the fork: {', '.join(names[:MOST_NAMED])}{more}" if names else None


def _may_idle(sighting: Sighting) -> bool:
    """Whether it waits for nothing that a library promises: a bare Event, a bare Condition."""
    entry = asking.outermost(sighting[14], _watched.settings.waits)
    return sighting[3] == CONDITION and (entry is None or entry.idle)


def _follow(standing: list[Waiting], holders: dict[int, set[int]], reasons: dict[int, _Reason]) -> None:
    """Who waits for a lock of a thread that hangs, hangs for the same reason."""
    threads = {wait[5][0]: wait[0] for wait in standing}
    for _ in standing:
        found = False
        for wait in standing:
            subject, having = wait[5][7], set(holders.get(id(wait[5][7]), ()))
            if wait[5][3] == naming.RLOCK:
                having.add(wait[4])
            if wait[0] in reasons or subject is None:
                continue
            for ident in having:
                reason = reasons.get(threads.get(ident, -1))
                if reason is not None and ident != wait[5][0]:
                    note = f"thread {naming.thread_name(ident)!r} of this process has it, and hangs itself"
                    reasons[wait[0]] = _Reason(reason.verdict, reason.proof, reason.hazard, note)
                    found = True
                    break
        if not found:
            return


def _is_main(sighting: Sighting) -> bool:
    return sighting[1] == os.getpid()


def _joins(sighting: Sighting) -> bool:
    """Whether it waits for a thread to end (up to 3.12 by a lock that the thread lets go of at its end)."""
    return sighting[3] == THREAD or sighting[10].co_qualname == "Thread._wait_for_tstate_lock"


def _handles_signals() -> bool:
    """Whether a Python handler of the program's could run in the main thread: not the one for Ctrl-C, which only ends it."""
    return any(
        callable(handler) and handler is not _signal.default_int_handler and not isinstance(handler, int)
        for handler in (_signal.getsignal(number) for number in _signal.valid_signals())
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is said


def _report(wait: Waiting, reason: _Reason) -> None:
    thread, seconds, _still, _forever, _owner, sighting = wait
    w = _watched
    kind = _KINDS[sighting[3]]
    if reason.hazard is not None and sighting[3] in (NONE, CONDITION, POLL):
        kind = reason.hazard["kind"]
    who = {"name": naming.holder_name(sighting), "ident": sighting[0], "native_id": sighting[1]}
    event: dict[str, Any] = {
        "v": 1,
        "event": "hang",
        "time": now(),
        "pid": os.getpid(),
        "parent": w.parent,
        "fork": w.fork,
        "seconds": round(seconds, 1),
        "thread": who,
        "waits_for": {
            "kind": kind,
            "what": _what(sighting),
            "stack": naming.places(sighting[14]),
        },
        "verdict": reason.verdict,
        "proof": reason.proof,
        "hazard": reason.hazard,
        "advice": _advice(sighting, reason),
    }
    notes = [reason.note] if reason.note else []
    if w.in_hooks and _is_main(sighting):
        notes.append("it is inside an at-fork hook of the program's or a library's, called from os.fork()")
    if notes:
        event["note"] = "; ".join(notes)
    w.reported[thread] = (event["waits_for"]["what"], who)
    w.settings.counts.hang(reason.verdict)
    _write(event, lambda: _sentence(event))
    if w.settings.on_hang == "kill":
        os.abort()
    if w.settings.on_hang == "sigkill":
        os.kill(os.getpid(), _signal.SIGKILL)


def _resolved(thread: int) -> None:
    what, who = _watched.reported.pop(thread, (None, None))
    if who is None:
        return
    event = {
        "v": 1,
        "event": "resolved",
        "time": now(),
        "pid": os.getpid(),
        "thread": who,
        "what": what,
    }
    text = f"forkproof: process {event['pid']}: thread {who['name']!r} no longer waits for {what}; it did not hang for ever"
    _write(event, lambda: text)


def _what(sighting: Sighting) -> str:
    kind, subject = sighting[3], sighting[7]
    entry = _entry(sighting) if kind in (CONDITION, NONE, POLL) else None
    if entry is not None:
        return entry.what
    if kind == CONDITION:
        return "a notification of a condition"
    if _joins(sighting):
        for thread in list(threading._active.values()):  # type: ignore[attr-defined]
            if subject in (getattr(thread, "_handle", None), getattr(thread, "_tstate_lock", None)):
                return f"the end of thread {thread._name!r}"
        return "the end of a thread"
    if kind == QUEUE:
        return "an item of a queue.SimpleQueue"
    if kind == NONE:
        return "another thread, in native code"
    return naming.what(sighting, _watched.settings.calls, _watched.settings.foreign)


def _advice(sighting: Sighting, reason: _Reason) -> str:
    if reason.hazard is not None:
        return str(reason.hazard["advice"])
    if reason.proof == "closed-world" or sighting[3] in (CONDITION, THREAD, QUEUE):
        return ADVICE_CLOSED
    if sighting[3] == NONE:
        return ADVICE_NATIVE
    return naming.advice(sighting, _watched.settings.calls, _watched.settings.foreign)


def _sentence(event: dict[str, Any]) -> str:
    """A hang in one line, for a process that has no events file."""
    waits, hazard, where = event["waits_for"], event["hazard"], _watched.where
    at = next((f for f in waits["stack"] if not f["file"].startswith("<frozen importlib")), waits["stack"][0])
    forked = f"process {event['parent']} forked" + (f" at {where['file']}:{where['line']}" if where else "")
    if hazard is not None:
        holder = f"thread {hazard['thread']['name']!r}" if hazard["thread"] else "a thread"
        if hazard["kind"] == "native-pool":
            cause = f"{hazard['what']} stayed behind when {forked}"
        elif hazard["kind"] == "vanished-worker":
            cause = f"{holder} ({hazard['what']}) stayed behind when {forked}"
        else:
            cause = f"{holder} had {hazard['what']} when {forked}, and does not exist here"
    elif event["proof"] == "closed-world":
        cause = f"no thread of this process can ever wake it ({forked})"
    elif event["verdict"] == "likely":
        cause = forked
    else:
        cause = f"its owner does not exist here ({forked})"
    if "note" in event:
        cause += f" ({event['note']})"
    how = f"{event['verdict']} by {event['proof']}" if event["proof"] else event["verdict"]
    return (
        f"{at['file']}:{at['line']}: forkproof: process {event['pid']} hangs: thread {event['thread']['name']!r} has waited "
        f"{event['seconds']:g} s for {waits['what']}; {cause} [{how}]. {event['advice']}"
    )


def _write(event: dict[str, Any], sentence: Callable[[], str]) -> None:
    writer: Writer | None = _watched.settings.writer
    if writer is not None:
        writer.write(event)
    elif _stderr_is_usable():
        text = "".join(c if c.isprintable() else " " for c in sentence()) + "\n"
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return


def _stderr_is_usable() -> bool:
    """A daemonising child closes its descriptors, and a file or a connection of its own may have number 2 then."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    if (status.st_dev, status.st_ino) == _watched.stderr or stat.S_ISCHR(status.st_mode):
        return sys.stderr is not None
    return bool(fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND)
