"""What a library that has threads needs to live through a fork, so that its users need nothing.

    self._lock = kit.Lock()                                   # new in a child, whoever held it in the parent
    self._monitor = kit.BackgroundThread(self._check, every=10)
    self._monitor.start()                                     # wherever it is needed: starts it where it does not run
    self._socket = kit.PerProcess(self._connect)              # each process makes its own
    self._made = kit.MadeHere(self, "make a Client in each process")
    self._made.check()                                        # warns in a child that uses the parent's

It stands alone: no hook of the guard's, no extension, nothing of Forkproof but this file. Locks are the interpreter's own
locks, so they cost what those cost; a fork costs one pass over those that are still alive.

Guarantees: one `os.register_at_fork` for all, made when this module is imported, so before the callbacks of whoever imports
it; all locks are new before anything else of the kit happens in the child, and the collector is off from before the fork
until then, so that no finalizer meets an old one. Everything is held weakly. Nothing of the program's is called in the hooks.

What it cannot do: finalizers of vanished threads' local data run before any callback in Python; and what a lock
protects may have been in the middle of a change: a child starts over (`PerProcess`) where that matters.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any, Generic, TypeVar

__all__ = [
    "BackgroundThread",
    "Condition",
    "Event",
    "Lock",
    "MadeHere",
    "PerProcess",
    "RLock",
    "UsedAfterForkWarning",
]

T = TypeVar("T")

_locks: dict[int, weakref.ref[Any]] = {}
"""By address, so that one is added or dropped by a single instruction of the interpreter: a fork in another thread finds it
whole. The weak reference goes before its object does, so an address is never that of another."""

_generation = 0
"""How many forks lie between the first process that imported this and the present one."""

_forking = 0  # threads that are between `_before` and `_after_in_parent`
_collects = False  # whether the collector was on when the first of them began


class UsedAfterForkWarning(UserWarning):
    """An object that was made before a fork is used by the child, which its library does not support."""


# ----------------------------------------------------------------------------------------------------------------------
# Locks


def Lock() -> threading.Lock:
    """A `threading.Lock` that is free in a child, whoever held it in the parent.

    The thread that forks must not hold it itself and then go on to release it in the child: it is free there already, and
    `release()` raises RuntimeError. Where that happens take an RLock, which stays with the thread that forks.
    """
    return _register(threading.Lock())


def RLock() -> Any:
    """A `threading.RLock` that is free in a child unless the forking thread holds it: then it still does."""
    return _register(threading.RLock())


def Condition(lock: Any = None) -> threading.Condition:
    """A `threading.Condition` whose lock (an RLock, or `lock`) is as above in a child, and which has no waiters there:
    a `notify()` in the child wakes a thread of the child. TypeError for a `lock` that cannot be renewed."""
    if lock is not None and not hasattr(lock, "_at_fork_reinit"):
        raise TypeError(f"a Condition of the kit needs a Lock or an RLock, not {type(lock).__name__}")
    return _register(threading.Condition(lock))


def Event() -> threading.Event:
    """A `threading.Event` that can be set and waited for in a child; it is set there if it was."""
    return _register(threading.Event())


def _register(lock: T) -> T:
    key = id(lock)
    _locks[key] = weakref.ref(lock, lambda _, forget=_locks.pop: forget(key, None))  # type: ignore[misc]
    return lock


def _renew(lock: Any) -> None:
    inner = getattr(lock, "_cond", lock)  # of an Event
    waiters = getattr(inner, "_waiters", None)  # of a Condition
    if waiters is not None:
        waiters.clear()
        inner = inner._lock
    is_owned = getattr(
        inner, "_is_owned", None
    )  # of an RLock; idents mean in the child what they meant at the fork
    if is_owned is None or not is_owned():
        inner._at_fork_reinit()


# ----------------------------------------------------------------------------------------------------------------------
# The hooks


def _before() -> None:
    global _forking, _collects
    if not _forking:
        _collects = gc.isenabled()
    _forking += 1
    gc.disable()


def _after_in_parent() -> None:
    global _forking
    _forking -= 1
    if not _forking and _collects:
        gc.enable()


def _after_in_child() -> None:
    global _forking, _generation
    for reference in list(_locks.values()):
        lock = reference()
        if lock is not None:
            _renew(lock)
    _generation += 1
    if _forking and _collects:
        gc.enable()
    _forking = 0


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


# ----------------------------------------------------------------------------------------------------------------------
# Values


class PerProcess(Generic[T]):
    """A value that each process makes for itself, when it first asks: a connection, a pool, a random generator.

    What the parent had made is kept in the child, untouched, and never finalized there: to close it could say goodbye to
    the other end in the parent's name.
    """

    __slots__ = ("__weakref__", "_factory", "_inherited", "_lock", "_made")

    def __init__(self, factory: Callable[[], T]) -> None:
        """`factory()` makes the value; a bound method is held weakly, so that it can be one of the object that has this."""
        self._factory = _weakly(factory)
        self._lock = RLock()
        self._made: tuple[int, T] | None = None
        self._inherited: list[T] = []

    def get(self) -> T:
        """The value of this process. What the factory raises is raised, and it is asked again next time."""
        made = self._made
        if made is not None and made[0] == _generation:
            return made[1]
        with self._lock:
            made = self._made
            if made is None or made[0] != _generation:
                factory = self._factory()
                if factory is None:
                    raise ReferenceError("the object whose method makes this value is gone")
                value = factory()
                if made is not None:
                    self._inherited.append(made[1])
                self._made = made = (_generation, value)
            return made[1]

    def made(self) -> T | None:
        """The value if this process has made one, to close it for instance."""
        made = self._made
        return made[1] if made is not None and made[0] == _generation else None


class BackgroundThread:
    """A daemon thread that runs `function`, started where and when it is needed, in a child as well.

    `start()` goes before whatever relies on the thread; it costs next to nothing where the thread runs. A fork starts nothing by
    itself: a child that never needs the thread never has it.
    """

    __slots__ = ("__weakref__", "_every", "_function", "_lock", "_name", "_run")

    def __init__(
        self, function: Callable[[], object], *, every: float | None = None, name: str | None = None
    ) -> None:
        """With `every`, `function` is called at once and then each so many seconds, until `stop()` or until its object is
        gone; without, it is called once. A bound method is held weakly between calls. What it raises ends the thread as it
        would any other (threading.excepthook); the next `start()` starts another."""
        self._function = _weakly(function)
        self._every = every
        self._name = name or str(getattr(function, "__qualname__", "background"))
        self._lock = RLock()
        self._run: _Run | None = None

    def start(self) -> None:
        """Have the thread run in this process. RuntimeError, as from `Thread.start`, where there can be no more threads."""
        if self.is_alive():
            return
        with self._lock:
            if self.is_alive():
                return
            run = _Run(self._function, self._every, self._name)
            run.start()
            self._run = run

    def is_alive(self) -> bool:
        """Whether it runs in this process."""
        run = self._run
        return run is not None and run.is_alive()

    def wake(self) -> None:
        """Have `function` called again now, not when the time has come; started if it does not run."""
        run = self._run
        if run is not None and run.is_alive():
            run.awake.set()
        else:
            self.start()

    def stop(self, timeout: float | None = None) -> None:
        """Let the thread end after the present call, and wait for that, at most `timeout` seconds. Does nothing where it does
        not run, as in a child of the process in which it does."""
        with self._lock:
            run = self._run
            if run is None or not run.is_alive():
                return
            run.stopping = True
            run.awake.set()
            self._run = None
        if run is not threading.current_thread():
            run.join(timeout)


class _Run(threading.Thread):
    """The thread of one process. It has all that it uses: a child touches nothing of the parent's."""

    def __init__(self, function: Callable[[], Any], every: float | None, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.awake = threading.Event()
        self.stopping = False
        self._function = function
        self._every = every

    def run(self) -> None:
        while not self.stopping:
            function = self._function()
            if function is None:
                return
            function()
            del function  # or it would keep its object alive until the next call
            if self._every is None:
                return
            self.awake.wait(self._every)
            self.awake.clear()


# ----------------------------------------------------------------------------------------------------------------------
# Made before the fork, used after it


class MadeHere:
    """Knows in which process an object was made, and warns where another one uses it: the least that a library can do whose
    objects do not live through a fork."""

    __slots__ = ("_advice", "_generation", "_library", "_pid", "_warned", "_what", "_where")

    def __init__(self, owner: object, advice: str) -> None:
        """To be made by the constructor of `owner`. `advice` is what its users should do instead, as a sentence."""
        frame = sys._getframe(1)
        self._library = _package(frame)
        self._what = type(owner).__qualname__
        self._advice = advice
        self._pid = os.getpid()
        self._generation = self._warned = _generation
        user = _user(frame, self._library)
        self._where = f"{user.f_code.co_filename}:{user.f_lineno}"

    def check(self) -> bool:
        """Whether this is the process in which it was made. If not, a UsedAfterForkWarning is issued at the line that called
        the library: once for each object and process."""
        if self._generation == _generation:
            return True
        if self._warned != _generation:
            self._warned = _generation
            user = _user(sys._getframe(1), self._library)
            warnings.warn_explicit(
                f"{self._what} was made in process {self._pid} at {self._where}, and process {os.getpid()}, forked since, "
                f"uses it; {self._advice}",
                UsedAfterForkWarning, user.f_code.co_filename, user.f_lineno,
                module=user.f_globals.get("__name__") or "<unknown>",
                registry=user.f_globals.setdefault("__warningregistry__", {}),
            )  # fmt: skip
        return False


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__") or "").partition(".")[0]


def _user(frame: FrameType, library: str) -> FrameType:
    """Who called the library: the first frame that is not its own. Where all is one module, who called its method."""
    caller: FrameType | None = frame
    while caller is not None:
        if _package(caller) != library:
            return caller
        caller = caller.f_back
    return frame.f_back or frame


def _weakly(function: Callable[[], T]) -> Callable[[], Callable[[], T] | None]:
    if isinstance(function, MethodType):
        return weakref.WeakMethod(function)
    return lambda: function
