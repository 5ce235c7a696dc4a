"""From what a `with` entered to the lock behind it."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from looking import Stage, Wanted, expect, holds, sightings, until
from looking import stage as stage  # the fixture

from forkproof.evidence.naming import STATES


def held_by(stage: Stage, manager: Any, *wanted: Wanted) -> None:
    """Inside `with manager:` exactly that is held, and nothing before and after."""
    before, gate, after = stage.gate(), stage.gate(), stage.gate()

    def body() -> None:
        before.wait()
        with manager:
            gate.wait()
        after.wait()

    thread = stage.at(before, body)
    expect(thread)
    before.open()
    gate.reached(thread)
    expect(thread, *wanted)
    gate.open()
    after.reached(thread)
    expect(thread)


@contextmanager
def locked(lock: Any) -> Iterator[None]:
    with lock:
        yield


@contextmanager
def acquired(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def through(manager: AbstractContextManager[Any]) -> Iterator[None]:
    with manager:
        yield


def test_a_lock(stage: Stage) -> None:
    lock = threading.Lock()
    held_by(stage, lock, holds(lock))


def test_an_rlock_names_its_owner(stage: Stage) -> None:
    lock = threading.RLock()
    held_by(stage, lock, holds(lock))


def test_an_rlock_of_another_thread_is_not_held(stage: Stage) -> None:
    """Entered by neither: the owner decides, not that it is locked."""
    lock, gate = threading.RLock(), stage.gate()

    class Pretends:
        def __enter__(self) -> None: ...
        def __exit__(self, *args: object) -> None:
            lock.release()

    with lock:

        def body() -> None:
            with contextlib.suppress(RuntimeError), Pretends():
                gate.wait()

        expect(stage.at(gate, body))


def test_a_condition_holds_its_rlock(stage: Stage) -> None:
    condition = threading.Condition()
    held_by(stage, condition, holds(condition._lock))  # type: ignore[attr-defined]


def test_a_condition_over_a_lock_holds_that_lock(stage: Stage) -> None:
    lock = threading.Lock()
    held_by(stage, threading.Condition(lock), holds(lock))


def test_two_conditions_over_one_lock(stage: Stage) -> None:
    lock = threading.Lock()
    first, second, gate = threading.Condition(lock), threading.Condition(lock), stage.gate()

    def body() -> None:
        with first:
            second.notify()
            gate.wait()

    expect(stage.at(gate, body), holds(lock))


@pytest.mark.parametrize("kind", [threading.Semaphore, threading.BoundedSemaphore])
def test_the_last_permit_of_a_semaphore_is_at_risk(stage: Stage, kind: Any) -> None:
    semaphore = kind(1)
    held_by(stage, semaphore, holds(semaphore))


@pytest.mark.parametrize("kind", [threading.Semaphore, threading.BoundedSemaphore])
def test_a_permit_of_a_semaphore_that_has_more_is_not_at_risk(stage: Stage, kind: Any) -> None:
    semaphore = kind(2)
    held_by(stage, semaphore, holds(semaphore, at_risk=False))


def test_two_permits_in_one_thread(stage: Stage) -> None:
    semaphore, gate = threading.Semaphore(2), stage.gate()

    def body() -> None:
        with semaphore, semaphore:
            gate.wait()

    expect(stage.at(gate, body), holds(semaphore), holds(semaphore))


def test_a_semaphore_acquired_until_a_finally(stage: Stage) -> None:
    semaphore, gate = threading.Semaphore(1), stage.gate()

    def body() -> None:
        semaphore.acquire()
        try:
            gate.wait()
        finally:
            semaphore.release()

    expect(stage.at(gate, body), holds(semaphore))


@pytest.mark.parametrize("take", [locked, acquired])
def test_a_contextmanager_function(stage: Stage, take: Callable[[Any], Any]) -> None:
    lock = threading.Lock()
    held_by(stage, take(lock), holds(lock))


def test_contextmanagers_within_each_other(stage: Stage) -> None:
    a, b, c = (threading.Lock() for _ in range(3))

    @contextmanager
    def two() -> Iterator[None]:
        with through(locked(a)), acquired(b):
            yield

    @contextmanager
    def three() -> Iterator[None]:
        with two(), c:
            yield

    held_by(stage, three(), holds(a), holds(b), holds(c))


def test_a_contextmanager_with_an_exit_stack_inside(stage: Stage) -> None:
    a, b = threading.Lock(), threading.Lock()

    @contextmanager
    def both() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(a)
            stack.enter_context(locked(b))
            yield

    held_by(stage, both(), holds(a), holds(b))


def test_a_contextmanager_used_as_a_decorator(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    @locked(lock)
    def body() -> None:
        gate.wait()

    expect(stage.at(gate, body), holds(lock))


def test_an_exit_stack_with_every_sort_of_callback(stage: Stage) -> None:
    names = "enter_context callback push_manager push_release rlock condition nested".split()
    locks: dict[str, Any] = {name: threading.Lock() for name in names}
    locks["rlock"] = threading.RLock()
    gate = stage.gate()

    def body() -> None:
        with ExitStack() as stack:
            stack.enter_context(locks["enter_context"])
            locks["callback"].acquire()
            stack.callback(locks["callback"].release)
            locks["push_manager"].acquire()
            stack.push(locks["push_manager"])
            locks["push_release"].acquire()
            stack.push(locks["push_release"].__exit__)
            stack.enter_context(locks["rlock"])
            stack.enter_context(threading.Condition(locks["condition"]))
            stack.enter_context(locked(locks["nested"]))
            stack.callback(print, "never mind", end="")
            gate.wait()

    expect(stage.at(gate, body), *(holds(lock) for lock in locks.values()))


def test_an_exit_stack_that_has_let_go(stage: Stage) -> None:
    a, b, gate = threading.Lock(), threading.Lock(), stage.gate()

    def body() -> None:
        with ExitStack() as stack:
            stack.enter_context(a)
            stack.close()
            stack.enter_context(b)
            gate.wait()

    expect(stage.at(gate, body), holds(b))


class Guarded:
    """A class that is its own lock's manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._other = threading.Lock()

    def __enter__(self) -> Guarded:
        self._lock.acquire()
        return self

    def __exit__(self, *args: object) -> None:
        self._lock.release()


def test_a_class_whose_enter_acquires(stage: Stage) -> None:
    guarded = Guarded()
    held_by(stage, guarded, holds(guarded._lock))


def test_another_lock_of_the_same_object_is_not_claimed(stage: Stage) -> None:
    guarded = Guarded()
    with guarded._other:
        held_by(stage, guarded, holds(guarded._lock))


def test_a_class_whose_enter_calls_enter(stage: Stage) -> None:
    class Delegates:
        def __init__(self, lock: Any) -> None:
            self._deep = type("Deep", (), {})()
            self._deep.lock = lock

        def __enter__(self) -> Any:
            return self._deep.lock.__enter__()

        def __exit__(self, *args: Any) -> None:
            self._deep.lock.__exit__(*args)

    lock = threading.RLock()
    held_by(stage, Delegates(lock), holds(lock))


def test_a_class_derived_from_one_that_locks(stage: Stage) -> None:
    class Derived(Guarded):
        def __enter__(self) -> Derived:
            super().__enter__()
            return self

    class Plain(Guarded):
        pass

    plain = Plain()
    held_by(stage, plain, holds(plain._lock))


def test_a_class_that_locks_through_a_second_class(stage: Stage) -> None:
    class Outer:
        def __init__(self) -> None:
            self.inner = Guarded()

        def __enter__(self) -> None:
            self.inner.__enter__()

        def __exit__(self, *args: Any) -> None:
            self.inner.__exit__(*args)

    outer = Outer()
    held_by(stage, outer, holds(outer.inner._lock))


class Several:
    """A lock that is made of others, as xarray's for files is."""

    def __init__(self, locks: Any) -> None:
        self.locks = locks

    def __enter__(self) -> None:
        for lock in self.locks:
            lock.__enter__()

    def __exit__(self, *exception: object) -> None:
        for lock in self.locks:
            lock.__exit__(*exception)


class Acquires(Several):
    def __enter__(self) -> None:
        for lock in self.locks:
            lock.acquire()

    def __exit__(self, *exception: object) -> None:
        for lock in reversed(self.locks):
            lock.release()


class TakesTheFirst(Several):
    """Only what a `for` goes through whole is meant."""

    def __enter__(self) -> None:
        for lock in self.locks[:1]:
            lock.acquire()

    def __exit__(self, *exception: object) -> None:
        for lock in self.locks[:1]:
            lock.release()


@pytest.mark.parametrize("kind", [Several, Acquires])
@pytest.mark.parametrize("container", [tuple, list])
def test_a_class_whose_enter_takes_all_of_its_locks(stage: Stage, kind: Any, container: Any) -> None:
    first, second = threading.Lock(), threading.RLock()
    held_by(stage, kind(container([first, second])), holds(first), holds(second))


def test_a_class_whose_enter_enters_others_that_lock(stage: Stage) -> None:
    first, second = Guarded(), Guarded()
    held_by(stage, Several((first, second)), holds(first._lock), holds(second._lock))


def test_a_class_whose_enter_takes_some_of_its_locks_is_not_claimed(stage: Stage) -> None:
    held_by(stage, TakesTheFirst([threading.Lock(), threading.Lock()]))


class Job:
    def __init__(self, lock: Any) -> None:
        self.condition = threading.Condition(lock)


class Jobs:
    """As concurrent.futures has the conditions of all the futures that a thread waits for."""

    def __init__(self, locks: Any) -> None:
        self.jobs = [Job(lock) for lock in locks]

    def __enter__(self) -> None:
        for job in self.jobs:
            job.condition.acquire()

    def __exit__(self, *exception: object) -> None:
        for job in self.jobs:
            job.condition.release()


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_class_whose_enter_takes_a_lock_of_each_of_many(stage: Stage, kind: Any) -> None:
    locks = [kind() for _ in range(300)]
    held_by(stage, Jobs(locks), *(holds(lock) for lock in locks))


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_of_many_locks_those_that_an_enter_has_taken_so_far(stage: Stage, kind: Any) -> None:
    """It waits for the last of them."""
    *taken, last = locks = [kind() for _ in range(100)]
    jobs = Jobs(locks)

    def body() -> None:
        with jobs:
            pass

    with stage.held(last):
        thread = stage.start(body)
        until(lambda: last in [s[7] for s in sightings(thread)])
        assert {id(s[7]) for s in sightings(thread) if STATES[s[2]] == "holds"} == {
            id(lock) for lock in taken
        }


for_all = threading.Lock()


class Session:
    """Its lock is its class's, or its module's: one for all of them."""

    lock = threading.Lock()
    guard = threading.Lock()

    def __enter__(self) -> None:
        with Session.guard:
            pass
        Session.guard.acquire()
        Session.guard.release()
        Session.lock.acquire()
        for_all.acquire()

    def __exit__(self, *exception: object) -> None:
        for_all.release()
        Session.lock.release()


def test_a_class_whose_enter_takes_locks_that_are_not_its_instances(stage: Stage) -> None:
    held_by(stage, Session(), holds(Session.lock), holds(for_all))


def test_a_lock_that_an_enter_lets_go_of_again_is_not_claimed(stage: Stage) -> None:
    gate, other = stage.gate(), stage.gate()

    def body() -> None:
        with Session():
            gate.wait()

    def guarded() -> None:
        with Session.guard:
            other.wait()

    thread = stage.at(gate, body)
    stage.at(other, guarded)
    expect(thread, holds(Session.lock), holds(for_all))


class Counted:
    """Its lock is for the count of those that have entered, and nobody has it for longer."""

    def __init__(self) -> None:
        self.lock, self.entered = threading.Lock(), 0

    def __enter__(self) -> None:
        self.lock.acquire()
        try:
            self.entered += 1
        finally:
            self.lock.release()

    def __exit__(self, *exception: object) -> None:
        self.lock.acquire()
        self.entered -= 1
        self.lock.release()


def test_a_lock_that_an_enter_has_for_a_moment_is_not_claimed_of_who_is_inside(stage: Stage) -> None:
    gate, other, counted = stage.gate(), stage.gate(), Counted()

    def body() -> None:
        with counted:
            gate.wait()

    def holder() -> None:
        with counted.lock:
            other.wait()

    thread = stage.at(gate, body)
    expect(stage.at(other, holder), holds(counted.lock))
    expect(thread)


class Channel:
    """Takes the lock of all channels when it is opened, and lets go of it when it is closed."""

    def __init__(self) -> None:
        for_all.acquire()
        self.open = True

    def close(self) -> None:
        if self.open:
            self.open = False
            for_all.release()


def test_closing_something_that_holds_a_lock_of_its_module(stage: Stage) -> None:
    gate = stage.gate()

    def body() -> None:
        with contextlib.closing(Channel()):
            gate.wait()

    expect(stage.at(gate, body), holds(for_all, certain=False))


def test_a_class_whose_enter_uses_with_is_not_claimed(stage: Stage) -> None:
    """`with self._lock:` in __enter__ has let go of it again when the block begins."""

    class Counts:
        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            with self._lock:
                pass

        def __exit__(self, *args: object) -> None:
            with self._lock:
                pass

    held_by(stage, Counts())


def test_a_class_with_slots_and_a_class_with_a_property(stage: Stage) -> None:
    """A property is the program's code and is not run: what it would give is not claimed."""

    class Slotted:
        __slots__ = ("lock",)

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            self.lock.release()

    slotted = Slotted()
    held_by(stage, slotted, holds(slotted.lock))

    asked = []
    hidden = threading.Lock()

    class Asks:
        @property
        def lock(self) -> Any:
            asked.append(threading.current_thread())
            return hidden

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            self.lock.release()

    gate = stage.gate()

    def body() -> None:
        with Asks():
            gate.wait()

    thread = stage.at(gate, body)
    expect(thread)
    assert set(asked) == {thread}


def test_no_code_of_the_program_runs_while_we_look(stage: Stage) -> None:
    ran: list[str] = []

    class Nosy:
        def __init__(self) -> None:
            object.__setattr__(self, "_lock", threading.Lock())

        def __getattribute__(self, name: str) -> Any:
            if threading.current_thread() is threading.main_thread():
                ran.append(name)
            return object.__getattribute__(self, name)

        def __getattr__(self, name: str) -> Any:
            ran.append(name)
            raise AttributeError(name)

        def __eq__(self, other: object) -> bool:
            ran.append("==")
            return False

        def __hash__(self) -> int:
            ran.append("hash")
            return 0

        def __bool__(self) -> bool:
            ran.append("bool")
            return True

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *args: object) -> None:
            self._lock.release()

    from looking import sightings

    nosy, gate = Nosy(), stage.gate()

    def body() -> None:
        with nosy:
            gate.wait()

    thread = stage.at(gate, body)
    sightings(thread)
    assert ran == []


def test_a_class_whose_exit_alone_shows_the_lock_is_possible(stage: Stage) -> None:
    """How __enter__ took it cannot be read; that __exit__ releases it can."""

    class Odd:
        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            getattr(self._lock, "acq" + "uire")()

        def __exit__(self, *args: object) -> None:
            self._lock.release()

    odd = Odd()
    held_by(stage, odd, holds(odd._lock, certain=False))


def test_closing_and_redirect_and_other_library_managers_hold_nothing(stage: Stage) -> None:
    import decimal
    import io
    import tempfile

    class Closes:
        def close(self) -> None: ...

    for manager in (
        contextlib.closing(Closes()),
        contextlib.suppress(KeyError),
        contextlib.nullcontext(),
        decimal.localcontext(),
        io.StringIO(),
        tempfile.TemporaryDirectory(),
        memoryview(b""),
    ):
        held_by(stage, manager)


def test_closing_something_that_holds_a_lock_until_closed(stage: Stage) -> None:
    """`contextlib.closing(generator)`: the suspended generator is what holds."""
    lock, gate = threading.Lock(), stage.gate()

    def gen() -> Generator[int, None, None]:
        with lock:
            yield 1

    def body() -> None:
        with contextlib.closing(gen()) as g:
            next(g)
            gate.wait()

    from looking import sightings

    thread = stage.at(gate, body)
    seen = sightings(thread)
    assert [(s[2], s[7] is lock) for s in seen] == [(0, True)]


def test_a_manager_with_static_exit(stage: Stage) -> None:
    """On 3.14 and later the slot beside the exit is empty then."""
    lock = threading.Lock()

    class Static:
        @staticmethod
        def __enter__() -> None:
            lock.acquire()

        @staticmethod
        def __exit__(*args: object) -> None:
            lock.release()

    gate = stage.gate()
    other = threading.Lock()

    def body() -> None:
        with Static(), other:
            gate.wait()

    expect(stage.at(gate, body), holds(other))


def test_a_manager_with_an_exit_made_by_partial(stage: Stage) -> None:
    import functools

    lock, gate = threading.Lock(), stage.gate()

    class Partial:
        __enter__ = staticmethod(functools.partial(lambda *args: None))
        __exit__ = staticmethod(functools.partial(lambda *args: None))

    def body() -> None:
        with lock, Partial():
            gate.wait()

    expect(stage.at(gate, body), holds(lock))


def test_the_lock_of_a_logging_handler(stage: Stage) -> None:
    import logging

    gate = stage.gate()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gate.wait()

    handler = Slow()
    thread = stage.at(gate, handler.handle, logging.makeLogRecord({}))
    from looking import sightings

    assert [(s[2], s[7] is handler.lock, bool(s[4])) for s in sightings(thread)] == [(0, True, True)]


def test_a_queue_put_that_waits_for_its_item(stage: Stage) -> None:
    import queue

    gate = stage.gate()

    class Slow(queue.Queue):  # type: ignore[type-arg]
        def _put(self, item: object) -> None:
            gate.wait()

    q = Slow()
    expect(
        stage.at(gate, q.put, 1),
        holds(
            q.mutex,
            "self.not_full of test_evidence_managers.test_a_queue_put_that_waits_for_its_item.<locals>.Slow",
        ),
    )
