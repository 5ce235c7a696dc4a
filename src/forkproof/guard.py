"""The policies around the C hooks: what to wait for, what to say, and what the program is told.

`_c/guard.c` does the looking, the owning and the resetting, where no Python code may run. It calls in here only where
no lock is owned: `_consider` before it begins to wait, `_after_in_parent` and `_after_in_child` when the fork is done.
An exception in any of them turns Forkproof off and is reported once; the fork itself goes on as it would have.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
import warnings
import weakref

from . import catalogue, embedded, sharing, unflushed, watch
from ._counts import Counts
from ._errors import ForkRiskError, ForkRiskWarning
from ._events import Writer, now
from .evidence import asking, coarse, intent, mended, naming, pools, workers
from .evidence.keeper import keeper
from .repair import break_executors, drop_imports, mend_executors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, Literal

    from ._native import Sighting
    from .model import Assessment, Hazard

    Policy = Literal["observe", "wait", "raise"]
    _Facts = tuple[int, int, int, bool, int]

try:
    from . import _native
except ImportError as error:
    _native = None  # type: ignore[assignment]
    _why_coarse = str(error)
else:
    _why_coarse = ""

elsewhere = "main interpreter only" in _why_coarse or "in subinterpreters" in _why_coarse
"""Whether this is a subinterpreter, whose forks are not watched: in the words of the extension, or those of CPython."""

_RESOURCES = {"process": 0, "object": 1, "stream": 2}
_CONSUMES = 3
_WORKER = 4
_HOSTS = {None: 0, "host-name": 1, "address": 2}
_STREAMS = {"stdin": 1, "stdout": 2, "stderr": 4}
_KEEPS = 8
_OUTCOMES = ("clear", "observed", "waited", "gave-up")


class _Settings:
    """What `install` was told, and what has been learnt since. One for the process; a forked child goes on with it."""

    def __init__(self) -> None:
        self.installed = False
        self.policy: Policy = "wait"
        self.wait = 1.0
        self.repair = True
        self.hang_after = 5.0
        self.on_hang = "report"
        self.watch_all = False
        self.warn = True
        self.writer: Writer | None = None
        self.calls: list[catalogue.Call] = []
        self.known: dict[Any, _Facts] = {}
        self.resolved: set[str] = set()
        self.locks: list[catalogue.Lock] = []
        self.workers: list[catalogue.Worker] = []
        self.pools: list[catalogue.Pool] = []
        self.waits: asking.Table = {}
        self.vanished: list[workers.Vanished] = []
        self.catalogued: set[int] = set()  # idents of threads whose purpose the catalogue knows, in a child
        self.mended: list[str] = []
        self.foreign: dict[int, catalogue.Lock] = {}
        self.exempt: dict[Any, Any] = {}
        self.declared: dict[int, Any] = {}
        self.not_mended: set[tuple[int, str, int]] = set()
        self.audited = False
        self.coarse_hooks = False
        self.said_coarse = False
        self.filters: list[tuple[Any, ...]] = []
        self.forks = 0
        self.counts = Counts()
        self.listener: Callable[[dict[str, Any]], None] | None = None


_settings = _Settings()


def install(
    policy: Policy = "wait",
    wait: float = 1.0,
    repair: bool = True,
    hang_after: float = 5.0,
    events: str | os.PathLike[str] | None = None,
    *,
    warn: bool = True,
    hide_moot_warnings: bool = True,
    on_hang: Literal["report", "kill", "sigkill"] = "report",
    watch_all: bool = False,
    connections: bool = False,
) -> None:
    """Watch every fork of this process, and of the processes forked from it.

    policy      "observe" changes nothing and reports; "wait" waits until no other thread holds what the child may need;
                "raise" makes os.fork() and os.forkpty() raise ForkRiskError when something is at risk, and waits at forks
                that cannot be refused (subprocess with preexec_fn).
    wait        seconds that one fork may be held up.
    repair      reset in the child what the wait could not clear, with a warning.
    hang_after  seconds after which a thread of a child that waits for what the fork left behind is reported as hanging.
                Children of forks that left something behind (a risk; a worker or native threads that the child may wait
                for; with connections or watch_all also a thread of the program's own that waited for a condition) have a
                thread in C that watches for it, and no other process has; float("inf") for none.
    events      a file to append one JSON object a line to (docs/events.md). Without it hangs are told on stderr.
    warn        issue ForkRiskWarning at a fork that went ahead at risk.
    hide_moot_warnings  hide what CPython (3.12 on) and libraries say about every fork with threads, in the parent or in the
                child, where nothing was at risk (catalogue/warnings.toml).
    on_hang     "kill" ends a child with SIGABRT after a hang of it was reported, proven or likely, so that its supervisor
                starts another; "sigkill" leaves no core file and lets no faulthandler print.
    watch_all   with an events file: watch children of forks at which nothing was at risk as well.
    connections  report a child that uses a connection which it has inherited and a process it descends from still has open
                (docs/connections.md). In children that inherit one, calls of read(), send() and the like lead through
                Forkproof. Linux with glibc, x86-64 and arm64. And report output that was in a file's buffer at a fork and
                that two processes have written.

    Called again it replaces the settings. Raises ValueError for a setting that makes no sense and OSError for an events
    file that cannot be opened; nothing is installed then.
    """
    if policy not in ("observe", "wait", "raise"):
        raise ValueError(f"policy must be 'observe', 'wait' or 'raise', not {policy!r}")
    if not 0 <= wait <= 3600:
        raise ValueError(f"wait must be between 0 and 3600 seconds, not {wait!r}")
    if not hang_after > 0:
        raise ValueError(f"hang_after must be more than 0 seconds, not {hang_after!r}")
    if on_hang not in ("report", "kill", "sigkill"):
        raise ValueError(f"on_hang must be 'report', 'kill' or 'sigkill', not {on_hang!r}")
    if not hasattr(os, "fork"):
        raise OSError("this system has no fork(); there is nothing to watch")
    writer = None if events is None else Writer(events)
    s = _settings
    if _native is not None:
        _native.set_lines(None)
    if s.writer is not None:
        s.writer.close()
    s.policy, s.wait, s.repair, s.hang_after, s.on_hang = policy, wait, repair, hang_after, on_hang
    s.writer, s.warn, s.watch_all = writer, warn, watch_all
    s.calls, s.locks = catalogue.calls(), catalogue.all_locks()
    if policy == "raise" and not s.audited:
        # An audit hook refuses a fork before any callback has run, and also for `from os import fork`. It can never be
        # removed, so it is added only for this policy, and asks whether it is still wanted.
        sys.addaudithook(_audit)
        s.audited = True
    if _native is None:
        _install_coarse()
        return
    _native.set_semaphore(threading.Semaphore)
    _native.set_exempt(s.exempt)
    _know_workers()
    _probe()
    if not hide_moot_warnings:
        _remove_filters()
    elif not s.filters:
        s.filters = [
            (
                "ignore",
                _native.ForkWarning(tuple(entry.contains), entry.issued == "child"),
                getattr(builtins, entry.category),
                None,
                0,
            )
            for entry in catalogue.blanket_warnings()
        ]
    _native.install(
        policy=0 if policy == "observe" else 1,
        repair=repair,
        wait=wait,
        report_all=writer is not None,
        watch_idle=connections or watch_all,
        refresh=_refresh,
        consider=_consider,
        after_parent=_after_in_parent,
        after_child=_after_in_child,
        fault=_fault,
        warnings=warnings,
        filter=s.filters[0] if s.filters else None,
    )
    intent.ask(connections or watch_all)
    sharing.watch(connections, None if writer is None else writer.path)
    unflushed.watch(connections, _tell_doubled, _where)
    if writer is not None and not (watch_all or connections):
        writer.on_change = lambda: _native.set_lines(None)
        plain = writer.plainly({"policy": policy, "outcome": _OUTCOMES[0]})
        _native.set_lines(plain and (*plain, _PASSED))
    s.installed = True
    _refresh()
    embedded.notice(unseen, warns)


def uninstall() -> None:
    """Stop watching. A fork that is under way in another thread is finished as it was begun."""
    s = _settings
    s.installed = False
    if _native is not None:
        _native.uninstall()
        _native.set_lines(None)
        _native.watch_stop()
        sharing.watch(False, None)
        unflushed.watch(False, _tell_doubled, _where)
        intent.ask(False)
    _remove_filters()
    if s.writer is not None:
        s.writer.close()
        s.writer = None


def installed() -> bool:
    """Whether the forks of this process are watched."""
    return _settings.installed


def forks() -> int:
    """The number of the last fork that was watched, here or in the processes that this one descends from."""
    return _settings.forks if _native is None else _native.forks()


def counts() -> Counts:
    """What has been met with in this process."""
    return _settings.counts


def listen(listener: Callable[[dict[str, Any]], None] | None) -> None:
    """Call `listener` with the event (docs/events.md) of each fork that was at risk or waited: in the parent, inside os.fork(), with
    nothing owned. It must not wait, and take no lock that this thread may have."""
    _settings.listener = listener


def warns() -> bool:
    """Whether it is on, and to say what is wrong."""
    return _settings.installed and _settings.warn


def unseen() -> int:
    """How many other threads of Python's there were when C code forked this process without Python's hooks; asked again, 0."""
    return 0 if _native is None else _native.unseen()


def at_risk() -> list[Hazard]:
    """What counts of `assess()`, without the search of the heap, which is for now and then."""
    return [hazard for hazard in _assess(search=False).hazards if hazard.counts]


def is_exact() -> bool:
    """Whether the extension is there, so that frames can be read."""
    return _native is not None


def assess() -> Assessment:
    """What would be at risk if this thread forked now. Works with and without `install`."""
    return _assess(search=True)


def _assess(*, search: bool) -> Assessment:
    from .model import Assessment, Hazard

    if _native is None:
        found = coarse.look()
        hazards = tuple(Hazard.from_json(h) for h in found)
        return Assessment(risk=_risk(found), hazards=hazards, exact=False, note=_why_coarse)
    if not _settings.installed:
        _settings.calls, _settings.locks = catalogue.calls(), catalogue.all_locks()
        _native.set_semaphore(threading.Semaphore)
        _native.set_exempt(_settings.exempt)
        _know_workers()
        _probe()
    _refresh()  # libraries may have been imported since the last fork
    seen = _native.assess(search)
    _exempt_mended(seen)
    found = _told([(s, False) for s in seen if id(s[7]) not in _settings.exempt])
    found += workers.hazards(_native.workers(), _settings.workers)
    found += pools.hazards(_native.native_threads(), _settings.pools, again=True)
    return Assessment(risk=_risk(found), hazards=tuple(Hazard.from_json(h) for h in found))


def _know_workers() -> None:
    s = _settings
    if not s.workers:
        assert _native is not None
        s.workers, s.pools = catalogue.all_workers(), catalogue.all_pools()
        s.waits = asking.table(catalogue.all_waits())
        _native.set_workers(workers.table(s.workers), [worker.each for worker in s.workers])


def declare_safe(lock_or_thread: Any, reason: str = "") -> None:
    """Say that a lock is never used by a child, or that a thread holds nothing a child needs: it is no hazard from now on.

    Takes a Lock, an RLock, anything with one as `_lock` (a Condition), or a threading.Thread that has been started.
    Raises TypeError for anything else. `reason` is for the reader of your code.
    """
    if isinstance(lock_or_thread, threading.Thread):
        if lock_or_thread.ident is None:
            raise TypeError("declare_safe needs a thread that has been started")
        _settings.exempt[(lock_or_thread.ident,)] = reason
        return
    lock = lock_or_thread
    if not hasattr(lock, "_at_fork_reinit"):
        lock = getattr(lock, "_lock", None)
    if not hasattr(lock, "_at_fork_reinit"):
        raise TypeError(f"declare_safe takes a lock or a thread, not {type(lock_or_thread).__name__}")
    _exempt(lock, reason)


def exempt_threads(idents: list[int], reason: str | None) -> None:
    """What these threads hold is no hazard; None for `reason` takes that back."""
    for ident in idents:
        if reason is None:
            _settings.exempt.pop((ident,), None)
        else:
            _settings.exempt[(ident,)] = reason


def _exempt(lock: Any, reason: str) -> None:
    """Until the lock is gone: another object may have its address then."""
    key = id(lock)
    exempt = _settings.exempt
    declared = _settings.declared

    def forget(_: Any) -> None:
        exempt.pop(key, None)
        declared.pop(key, None)

    declared[key] = weakref.ref(lock, forget)
    exempt[key] = reason


# ----------------------------------------------------------------------------------------------------------------------
# What C asks for


def _refresh() -> None:
    """Modules have come or gone, or another filter stands before ours."""
    assert _native is not None
    s = _settings
    for name, keeps in catalogue.consumers().items() if not s.known else ():
        s.known[catalogue.resolve(name)] = (0, _CONSUMES, 0, False, int(keeps))
    awaited = set()
    unresolved: list[tuple[str, str, str | None, _Facts]] = []
    for names, facts in _catalogued():
        for name in names:
            if name in s.resolved:
                continue
            parts = name.split(".")
            module = ".".join(parts[: max(1, len(parts) - 2)])  # a function's may be one less
            found = catalogue.resolve(name) if module in sys.modules else None
            if found is None:
                awaited.add(module)
                for at in range(max(1, len(parts) - 2), len(parts)):
                    method = parts[at + 1] if at + 1 < len(parts) else None
                    unresolved.append((".".join(parts[:at]), parts[at], method, facts))
            else:
                s.resolved.add(name)
                s.known[found] = facts
    awaited.update(lock.module for lock in s.locks)
    looked_for = []
    for lock in s.locks:
        found = catalogue.resolve(lock.path)
        if found is None:
            looked_for.append((lock.marker, lock.steps))
        elif not lock.concerns_loaded():
            _native.drop_foreign(found)
        elif id(found) not in s.foreign:
            s.foreign[id(found)] = lock
            _native.add_foreign(found, lock.marker, lock.steps)
    _native.set_calls(
        s.known, unresolved, looked_for, tuple(name for name in awaited if not _is_imported(name))
    )
    if s.filters:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        if (not filters or filters[0] is not s.filters[0]) and _native.enter_warnings():
            filters[:] = [*s.filters, *_others(filters)]
            _filters_changed()
            _native.leave_warnings()


def _catalogued() -> Iterator[tuple[tuple[str, ...], _Facts]]:
    """What is known of functions in C, by their dotted names."""
    for index, call in enumerate(_settings.calls):
        streams = sum(_STREAMS[name] for name in call.streams) | (_KEEPS if call.keeps else 0)
        yield (
            call.names,
            (index, _RESOURCES[call.resource], _HOSTS[call.only], call.gil_outside, streams),
        )
    for index, worker in enumerate(_settings.workers):
        yield worker.methods, (index, _WORKER, 0, False, 0)


def _is_imported(name: str) -> bool:
    """And no thread is in the middle of it, so that all it is to have is there."""
    module = sys.modules.get(name)
    spec = getattr(module, "__dict__", {}).get("__spec__")
    return module is not None and not getattr(spec, "_initializing", False)


def _find_replaced() -> None:
    """The extension follows the catalogue's locks (of a library imported since the last refresh, or replaced by it), and the
    names do here."""
    s = _settings
    for lock in s.locks:
        found = catalogue.resolve(lock.path)
        if found is not None and (id(found) in s.foreign or lock.concerns_loaded()):
            s.foreign[id(found)] = lock


def _others(filters: list[Any]) -> list[Any]:
    return [item for item in filters if not any(item is ours for ours in _settings.filters)]


def _remove_filters() -> None:
    if _settings.filters:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        filters[:] = _others(filters)
        _settings.filters = []
        _filters_changed()


def _filters_changed() -> None:
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):
        function = getattr(warnings, name, None)
        if function is not None:
            try:
                function()
            except RuntimeError:  # 3.14 on: it wants the module's lock held
                with warnings._lock:  # type: ignore[attr-defined]
                    function()
            return


def _consider(seen: list[Sighting]) -> None:
    """Before any waiting, with nothing owned: what other libraries mend themselves need not be waited for."""
    _exempt_mended(seen)


def _exempt_mended(seen: list[Sighting]) -> None:
    """What is mended, or needed by no child, is as if it had not been seen, for as long as the lock lives."""
    assert _native is not None
    s = _settings
    callbacks = None
    for sighting in seen:
        kind, lock, code, named_at, holder = (
            sighting[3],
            sighting[7],
            sighting[10],
            sighting[12],
            sighting[13],
        )
        if kind not in (naming.LOCK, naming.RLOCK) or id(lock) in s.exempt:
            continue
        if sighting[9] in (naming.UNSEEN, naming.KEPT):
            kept = keeper(lock)
            if kept is None:
                continue
            attribute, root, holder = kept[0], "self" if kept[2] else "", kept[2]
        else:
            text = _native.expression(code, named_at) if named_at >= 0 else None
            if text is None:
                continue
            root, _, attribute = text.rpartition(".")
        if callbacks is None:
            callbacks = _native.child_callbacks()
        key = (id(lock), attribute, len(callbacks))
        if key in s.not_mended:
            continue
        if (root in ("self", "cls") and catalogue.is_harmless(holder, attribute)) or mended.mends(
            callbacks, lock, attribute
        ):
            _exempt(lock, "its library resets it in the child, or no child needs it")
        else:
            if len(s.not_mended) > 10_000:
                s.not_mended.clear()
            s.not_mended.add(key)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in ("os.fork", "os.forkpty") or not _settings.installed or _settings.policy != "raise":
        return
    found = _assess(search=False)
    if found.risk != "none":
        first, *others = (hazard for hazard in found.hazards if hazard.counts)
        more = f" and {len(others)} more" if others else ""
        thread = first.thread.name if first.thread else "a thread"
        where = _where(sys._getframe(1))
        _emit_fork(
            {"forks": 0, "where": where, "waited": 0.0, "polls": 1, "outcome": "refused"},
            [hazard.to_json() for hazard in found.hazards],
        )
        raise ForkRiskError(
            f"fork refused: thread {thread!r} {_verb(first.state)} {first.what}{more}; {first.advice}"
        )


def _verb(state: str | None) -> str:
    return {
        "holds": "holds",
        "leaving": "is about to let go of",
        "acquiring": "is acquiring",
        "inside": "is inside",
        "importing": "is in the middle of the",
    }.get(state or "", "may hold")


def _told(sightings: list[tuple[Sighting, bool]]) -> list[dict[str, Any]]:
    """The hazards that they are; with each whether it is cleared."""
    if not sightings:
        return []
    _find_replaced()
    return naming.hazards(sightings, _settings.calls, _settings.foreign)


def _key(s: Sighting) -> tuple[int, int]:
    return (s[0], id(s[7]))


def _hazards(seen: list[Sighting] | None, left: list[Sighting] | None) -> list[dict[str, Any]]:
    """All that was seen at a fork; cleared is what was gone or owned when it went ahead. Locks of which nothing else is to be
    told, as of the hundred futures that a thread waits for, are one hazard."""
    hazards: list[dict[str, Any]] = []
    alike: set[tuple[Any, ...]] = set()
    for hazard in _told(_sorted(seen, left)):
        stack = hazard["stack"]
        at = [(frame["file"], frame["line"]) for frame in (*stack[:1], hazard.get("held_at")) if frame]
        key = (
            hazard["what"],
            hazard["thread"]["ident"],
            hazard["cleared"],
            hazard["certainty"],
            hazard["state"],
            *at,
        )
        if key not in alike:
            alike.add(key)
            hazards.append(hazard)
    return hazards


def _sorted(seen: list[Sighting] | None, left: list[Sighting] | None) -> list[tuple[Sighting, bool]]:
    """What remained and what was cleared, without what is exempt."""
    if not (seen or left):
        return []
    _find_replaced()
    remaining = [s for s in left or () if _concerns(s)]
    keys = {_key(s) for s in remaining}
    gone = [s for s in seen or () if _key(s) not in keys and _concerns(s)]
    return [(s, False) for s in remaining] + [(s, True) for s in gone]


def _concerns(s: Sighting) -> bool:
    """Not if it is exempt, or a lock of the catalogue in a version of its library that mends it."""
    return id(s[7]) not in _settings.exempt and (s[3] != naming.FOREIGN or id(s[7]) in _settings.foreign)


def _risk(hazards: list[dict[str, Any]]) -> Literal["none", "possible", "certain"]:
    remaining = {h["certainty"] for h in hazards if not h["cleared"] and h["kind"] not in naming.NEEDED_ONLY}
    return "certain" if "certain" in remaining else "possible" if remaining else "none"


def _reset(left: list[Sighting] | None) -> list[Sighting]:
    """Of what was left, what the child puts right."""
    s = _settings
    if not s.repair or s.policy == "observe":
        return []
    return [x for x in left or () if x[3] == naming.IMPORT or x[15]]


def _after_in_parent(report: tuple[Any, ...]) -> BaseException | None:
    forks, seen, left, waited, polls, outcome, _clean, working, native = report
    if _settings.policy == "observe" and left:
        _exempt_mended(left)
    hazards = _hazards(seen, left)
    hazards += workers.hazards(working or [], _settings.workers, sys._getframe(1))
    hazards += pools.hazards(native or [], _settings.pools)
    if _native is not None:
        _native.expect_pools(bool(pools.here()))
    where = _where(sys._getframe(1))
    _emit_fork(
        {"forks": forks, "where": where, "waited": waited, "polls": polls, "outcome": _OUTCOMES[outcome]},
        hazards,
        [_name(x) for x in _reset(left)],
    )
    if _settings.warn and _risk(hazards) != "none":
        return _warn(hazards, sys._getframe(1), "the child may hang")
    return None


def _emit_fork(
    facts: dict[str, Any], hazards: list[dict[str, Any]], repaired: list[str] | None = None
) -> None:
    s = _settings
    remain = [h["kind"] for h in hazards if not h["cleared"] and h["kind"] not in naming.NEEDED_ONLY]
    s.counts.fork(facts["outcome"], remain, facts["waited"], len(repaired or ()))
    if s.writer is None and s.listener is None:
        return
    event = _fork_event(facts, hazards, repaired, os.getpid(), None)
    if s.writer is not None:
        s.writer.write(event)
    if s.listener is not None and (remain or facts["waited"]):
        s.listener(event)


def _fork_event(
    facts: dict[str, Any],
    hazards: list[dict[str, Any]],
    repaired: list[str] | None,
    pid: int,
    child: int | None,
) -> dict[str, Any]:
    return {
        "v": 1,
        "event": "fork",
        "time": now(),
        "pid": pid,
        "child": child,
        "fork": facts["forks"],
        "risk": _risk(hazards),
        "where": facts["where"],
        "waited_ms": round(facts["waited"] * 1e3, 3),
        "polls": facts["polls"],
        "repaired": list(dict.fromkeys(repaired or ())),
        "hazards": hazards,
        "policy": _settings.policy,
        "outcome": facts["outcome"],
    }


def _name(s: Sighting) -> str:
    _find_replaced()
    return naming.what(s, _settings.calls, _settings.foreign)


def _after_in_child(message: tuple[Any, ...]) -> BaseException | None:
    stage, body = message
    if stage == 3:
        embedded.tell()
        return None
    if stage == 2:
        found = workers.remember(body, _settings.workers, sys._getframe(1))
        _settings.vanished = [gone for gone, _ in found]
        _settings.catalogued = {kept[1] for kept in body if not _settings.workers[kept[0]].each}
        if _settings.repair and _settings.policy != "observe":
            _settings.mended = mend_executors(workers.executors(found))
            _settings.mended += break_executors(workers.broken(found))
        return None
    forks, _seen, remaining, _waited, _polls, _outcome, _clean, _working, native = body
    if stage == 0:
        # First of all callbacks: others may import, or hang. Nothing here does.
        if _settings.repair and _settings.policy != "observe":
            imports = [x for x in remaining or () if x[3] == naming.IMPORT]
            if imports:
                drop_imports([x[7] for x in imports], {x[0] for x in imports})
        pools.hazards(native or [], _settings.pools)
        _begin_watch(body, sys._getframe(1))
        return None
    if _settings.watch_all and not watch.has_begun():
        _begin_watch(body, sys._getframe(1))
    watch.settled()
    reset = _reset(remaining)
    mended_here, _settings.mended = _settings.mended, []
    if _watchdog_was_reset():
        mended_here.append(
            "faulthandler's watchdog: none in this child; it can be cancelled and started here"
        )
    if _settings.writer is not None:
        born = {
            "v": 1,
            "event": "born",
            "time": now(),
            "pid": os.getpid(),
            "parent": os.getppid(),
            "fork": forks,
        }
        if connections := sharing.inherited():
            born["connections"] = connections
        if reset or mended_here:
            born["repaired"] = list(dict.fromkeys((*(_name(x) for x in reset), *mended_here)))
        _settings.writer.write(born)
    # A thread that had only just got a lock has changed nothing of what it guards.
    torn = [x for x in reset if x[2] != naming.ACQUIRING]
    if _settings.warn and torn:
        hazards = _told([(x, False) for x in torn])
        return _warn(hazards, sys._getframe(1), "reset in this child: what it guards may be half-changed")
    return None


def _watchdog_was_reset() -> bool:
    return _native is not None and _native.watchdog_was_reset()


def _begin_watch(body: tuple[Any, ...], frame: FrameType | None) -> None:
    """What this child was left without is kept, for the watch and for whoever looks from outside."""
    forks, seen, left, waited, polls, outcome, _clean, _working, _native_threads = body
    if left and _settings.policy == "observe":
        _exempt_mended(left)
    pairs = _sorted(seen, left)
    told = [(s, hazard) for (s, _), hazard in zip(pairs, _told(pairs), strict=True)]
    reset = _reset(left)
    gone, _settings.vanished = _settings.vanished, []
    missing = [v.hazard() for v in gone if not v.mended and v.can_be_awaited()]
    known, _settings.catalogued = _settings.catalogued, set()
    intent.remember(threading._active, {threading.get_ident(), *known})  # type: ignore[attr-defined]
    missing += pools.leave_behind(but=pools.PYTHON if _watchdog_was_reset() else None)
    if _settings.hang_after == float("inf"):
        missing = []  # it is for the watch
    record = None
    if (
        missing
        or intent.left_behind()
        or _risk([hazard for _, hazard in told]) != "none"
        or _settings.watch_all
    ):
        hazards = [{**hazard, "address": hex(id(s[7]))} for s, hazard in told] + missing
        facts = {"forks": forks, "where": _where(frame), "waited": waited, "polls": polls}
        facts["outcome"] = _OUTCOMES[outcome]
        record = _fork_event(facts, hazards, [_name(x) for x in reset], os.getppid(), os.getpid())
    still = [(s, hazard) for s, hazard in told if not hazard["cleared"] and s not in reset]
    watch.begin(_settings, _fault, record, still)


def _warn(hazards: list[dict[str, Any]], frame: FrameType | None, consequence: str) -> BaseException | None:
    """Warn at the line that forked. Under -W error the exception cannot be raised from a callback: it is returned, and
    shown as CPython shows its own warning from there."""
    left = [h for h in hazards if not h["cleared"]]
    first = left[0]
    more = f" ({len(left) - 1} more at this fork)" if len(left) > 1 else ""
    name = first["thread"]["name"] if first["thread"] else "unknown"
    text = f"fork at risk: thread {name!r} {_verb(first['state'])} {first['what']}{more}; {consequence}. {first['advice']}"
    outside = _outside(frame)
    if outside is None:
        return None
    registry = outside.f_globals.setdefault("__warningregistry__", {})
    if _native is not None and not _native.enter_warnings():
        return None  # another thread is in the middle of a warning, perhaps for long; the event is written all the same
    try:
        warnings.warn_explicit(
            text, ForkRiskWarning, outside.f_code.co_filename, outside.f_lineno,
            module=outside.f_globals.get("__name__") or "<unknown>", registry=registry,
        )  # fmt: skip
    except ForkRiskWarning as error:
        return error
    finally:
        if _native is not None:
            _native.leave_warnings()
    return None


_PASSED = ("os", "pty", "subprocess", "multiprocessing", "concurrent", "forkproof", "threading")


def _outside(frame: FrameType | None) -> FrameType | None:
    """The frame that asked for the fork: the first outside the standard library's forking modules."""
    last = frame
    while frame is not None:
        last = frame
        name = frame.f_globals.get("__name__")
        if not isinstance(name, str) or name.partition(".")[0] not in _PASSED:
            return frame
        frame = frame.f_back
    return last


def _where(frame: FrameType | None) -> dict[str, Any]:
    outside = _outside(frame)
    if outside is None:
        return {"file": "<unknown>", "line": 0, "function": "<unknown>"}
    return {"file": outside.f_code.co_filename, "line": outside.f_lineno, "function": outside.f_code.co_name}


def _tell_doubled(event: dict[str, Any]) -> None:
    """Two processes have written what was in a file's buffer at a fork."""
    if _settings.writer is not None:
        _settings.writer.write(event)
    elif sys.stderr is not None:
        at, name = event["where"], event["file"] or f"descriptor {event['fd']}"
        text = (
            f"{at['file']}:{at['line']}: forkproof: {event['bytes']} bytes were in the buffer of {name} when process "
            f"{event['parent']} forked, and {event['writers']} processes have written them [{event['verdict']}]. {event['advice']}"
        )
        os.write(2, text.replace("\n", " ").encode("utf-8", "backslashreplace") + b"\n")


def _fault(where: str, error: BaseException | None) -> None:
    """Forkproof has failed and is off from here on; said once, and the program goes on."""
    _settings.installed = False
    text = f"forkproof: off after a fault of its own in {where}: {type(error).__name__}: {error}"
    if _settings.writer is not None:
        _settings.writer.write({"v": 1, "event": "fault", "time": now(), "pid": os.getpid(), "message": text})
    elif sys.stderr is not None:
        os.write(2, text.replace("\n", " ").encode("utf-8", "backslashreplace") + b"\n")


# ----------------------------------------------------------------------------------------------------------------------
# Setting up


def _probe() -> None:
    """Let the extension find where a buffered file keeps its lock, by calling it from inside one and then from outside."""
    import io

    assert _native is not None

    class Raw(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            _native.probe_buffered(file)
            return len(data)

    file = io.BufferedWriter(Raw())
    file.write(b"x")
    file.flush()
    _native.probe_buffered(file)


def _install_coarse() -> None:
    s = _settings
    if not s.said_coarse:
        s.said_coarse = True
        seen = "imports" if coarse.runs_on() else "imports and name look-ups"
        warnings.warn(
            f"forkproof: evidence is not exact here ({_why_coarse}); it sees {seen}, not locks",
            RuntimeWarning,
            stacklevel=3,
        )
    s.installed = True
    if not s.coarse_hooks:
        s.coarse_hooks = True
        os.register_at_fork(before=_coarse_before)


def _coarse_before() -> None:
    """Waits for imports and look-ups of other threads, up to the limit; never raises."""
    import time

    s = _settings
    if not s.installed:
        return
    try:
        start = time.monotonic()
        first = hazards = coarse.look()
        polls = 1
        while hazards and s.policy != "observe" and time.monotonic() - start < s.wait:
            time.sleep(0.0005)
            hazards = coarse.look()
            polls += 1
        left = {(h["thread"]["ident"], h["what"]) for h in hazards}
        gone = [{**h, "cleared": True} for h in first if (h["thread"]["ident"], h["what"]) not in left]
        s.forks += 1
        if hazards or gone or s.writer is not None:
            if not first:
                outcome = "clear"
            elif s.policy == "observe":
                outcome = "observed"
            else:
                outcome = "gave-up" if left else "waited"
            facts = {"forks": s.forks, "where": _where(sys._getframe(1)), "waited": time.monotonic() - start}
            _emit_fork({**facts, "polls": polls, "outcome": outcome}, hazards + gone)
            if hazards and s.warn:
                _warn(hazards, sys._getframe(1), "the child may hang")
    except Exception as error:  # whatever it is, the fork goes on as it would have
        _fault("before", error)
