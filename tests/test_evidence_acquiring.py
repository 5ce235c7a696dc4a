"""What a thread is about to have: at the `with` that has not entered, at `acquire()` however it is called."""

# ruff: noqa: F811
from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from looking import Stage, acquiring, expect, hazards, holds, sightings, signal, until
from looking import stage as stage  # the fixture

KINDS = [threading.Lock, threading.RLock]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["Lock", "RLock"])


def waiting(stage: Stage, body: Callable[..., object], *args: Any) -> threading.Thread:
    """The thread that runs `body`, once it is seen to acquire something."""
    thread = stage.start(body, *args)
    until(lambda: any(s[2] == 1 for s in sightings(thread)))
    return thread


@kinds
def test_at_a_with(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        with lock:
            pass

    with stage.held(lock):
        expect(
            waiting(stage, body),
            acquiring(lock, "lock in test_at_a_with.<locals>.body of test_evidence_acquiring"),
        )


@kinds
def test_at_the_second_of_two_in_one_with(stage: Stage, kind: Any) -> None:
    first, lock = threading.Lock(), kind()

    def body() -> None:
        with first, lock:
            pass

    with stage.held(lock):
        expect(waiting(stage, body), holds(first), acquiring(lock))


@kinds
def test_at_acquire_with_a_release_in_a_finally(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        lock.acquire()
        try:
            pass
        finally:
            lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
@pytest.mark.parametrize("how", ["positional", "keyword", "timeout", "star", "double star"])
def test_at_acquire_with_arguments(stage: Stage, kind: Any, how: str) -> None:
    lock = kind()

    def body() -> None:
        arguments, keywords = (True, 30), {"timeout": 30}
        if how == "positional":
            lock.acquire(True, 30)
        elif how == "keyword":
            lock.acquire(blocking=True, timeout=30)
        elif how == "timeout":
            lock.acquire(timeout=30)
        elif how == "star":
            lock.acquire(*arguments)
        else:
            lock.acquire(**keywords)
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_acquire_of_an_attribute(stage: Stage, kind: Any) -> None:
    class Holder:
        def __init__(self) -> None:
            self._lock = kind()

        def use(self) -> None:
            self._lock.acquire()
            try:
                pass
            finally:
                self._lock.release()

    holder = Holder()
    with stage.held(holder._lock):
        expect(waiting(stage, holder.use), acquiring(holder._lock))


@kinds
def test_at_a_bound_method_in_a_variable(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        take = lock.acquire
        take()
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_a_bound_method_in_a_variable_with_star(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        take, give, arguments = lock.acquire, lock.release, (True,)
        take(*arguments, **{})
        give()

    with stage.held(lock):
        thread = waiting(stage, body)
        assert [(s[2], s[7] is lock) for s in sightings(thread)] == [(1, True)]


@kinds
def test_at_a_functools_partial(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        functools.partial(lock.acquire, True)()
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_a_functools_partial_of_the_unbound_method(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        functools.partial(type(lock).acquire, lock)()
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_the_unbound_method(stage: Stage, kind: Any) -> None:
    lock = kind()
    cls = type(lock)

    def body() -> None:
        cls.acquire(lock)
        try:
            pass
        finally:
            lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_the_unbound_method_through_star(stage: Stage, kind: Any) -> None:
    lock = kind()
    cls, arguments = type(lock), (lock, True)

    def body() -> None:
        cls.acquire(*arguments)
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_enter_called_by_hand(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        lock.__enter__()
        lock.__exit__(None, None, None)

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_at_a_conditions_enter(stage: Stage, kind: Any) -> None:
    lock = kind()
    condition = threading.Condition(lock)

    def body() -> None:
        with condition:
            pass

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock, "self._lock of threading.Condition"))


@kinds
def test_at_a_conditions_acquire(stage: Stage, kind: Any) -> None:
    lock = kind()
    condition = threading.Condition(lock)

    def body() -> None:
        condition.acquire()
        try:
            pass
        finally:
            condition.release()

    with stage.held(lock):
        thread = waiting(stage, body)
        assert [(s[2], s[7] is lock) for s in sightings(thread)] == [(1, True)]
        expect(thread, acquiring(lock))


@kinds
def test_at_an_enter_in_python(stage: Stage, kind: Any) -> None:
    class Guarded:
        def __init__(self) -> None:
            self._lock = kind()

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *args: object) -> None:
            self._lock.release()

    guarded = Guarded()

    def body() -> None:
        with guarded:
            pass

    with stage.held(guarded._lock):
        expect(waiting(stage, body), acquiring(guarded._lock))


@kinds
def test_at_an_enter_that_is_a_class_level_alias(stage: Stage, kind: Any) -> None:
    class Guarded:
        def __init__(self) -> None:
            self._lock = kind()

        def acquire(self, *args: Any) -> Any:
            return self._lock.acquire(*args)

        __enter__ = acquire

        def __exit__(self, *args: object) -> None:
            self._lock.release()

    guarded = Guarded()

    def body() -> None:
        with guarded:
            pass

    with stage.held(guarded._lock):
        expect(waiting(stage, body), acquiring(guarded._lock))


@kinds
def test_inside_a_contextmanager_that_has_not_yielded(stage: Stage, kind: Any) -> None:
    import contextlib

    lock = kind()

    @contextlib.contextmanager
    def locked() -> Any:
        with lock:
            yield

    def body() -> None:
        with locked():
            pass

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_inside_exit_stack_enter_context(stage: Stage, kind: Any) -> None:
    import contextlib

    first, lock = threading.Lock(), kind()

    def body() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(first)
            stack.enter_context(lock)

    with stage.held(lock):
        expect(waiting(stage, body), holds(first), acquiring(lock))


def test_at_a_semaphores_inner_lock(stage: Stage) -> None:
    semaphore = threading.Semaphore(5)
    inner = semaphore._cond._lock  # type: ignore[attr-defined]

    def body() -> None:
        with semaphore:
            pass

    with stage.held(inner):
        expect(waiting(stage, body), acquiring(inner))


def test_waiting_for_a_permit_is_no_hold_of_the_semaphore(stage: Stage) -> None:
    semaphore = threading.Semaphore(0)

    def body() -> None:
        with semaphore:
            pass

    thread = stage.start(body)
    from forkproof import _native

    until(lambda: [c for c, _ in _native.waiters() if c is semaphore._cond])  # type: ignore[attr-defined]
    expect(thread)
    semaphore.release()


@kinds
def test_two_threads_at_one_lock(stage: Stage, kind: Any) -> None:
    lock = kind()

    def body() -> None:
        with lock:
            pass

    with stage.held(lock):
        for thread in (waiting(stage, body), waiting(stage, body)):
            expect(thread, acquiring(lock))


def test_entering_an_rlock_again_is_not_acquiring(stage: Stage) -> None:
    lock, gate = threading.RLock(), stage.gate()

    class Stops:
        def __enter__(self) -> None:
            lock.acquire()
            gate.wait()

        def __exit__(self, *args: object) -> None:
            lock.release()

    def body() -> None:
        with lock, Stops():
            pass

    expect(stage.at(gate, body), holds(lock))


def test_an_acquire_of_a_lock_that_another_thread_releases_is_a_signal(stage: Stage) -> None:
    done = threading.Lock()
    done.acquire()
    thread = waiting(stage, lambda: done.acquire())
    expect(thread, signal(done))
    done.release()


def test_the_target_of_a_thread_is_a_signal(stage: Stage) -> None:
    lock = threading.Lock()
    lock.acquire()
    thread = waiting(stage, lock.acquire)
    expect(thread, signal(lock))
    lock.release()


def test_joining_a_thread_is_no_hazard(stage: Stage) -> None:
    gate, entered = stage.gate(), stage.gate()
    other = stage.at(gate, gate.wait)

    def body() -> None:
        entered.wait()
        other.join()

    thread = stage.at(entered, body)
    entered.open()
    joined = ("join", "_wait_for_tstate_lock")
    until(lambda: sys._current_frames()[thread.ident or 0].f_code.co_name in joined)
    assert hazards(thread) == []


@kinds
def test_a_lock_with_a_finally_around_it_is_not_yet_held(stage: Stage, kind: Any) -> None:
    """`try: lock.acquire() ... finally: lock.release()`: inside the try, and yet only acquiring."""
    lock = kind()

    def body() -> None:
        try:
            lock.acquire()
        finally:
            lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


@kinds
def test_between_frames_of_c(stage: Stage, kind: Any) -> None:
    """map(), sorted(key=), re.sub(): C code between the frame that holds and the frame that acquires."""
    import re

    held, lock = threading.Lock(), kind()

    def use(*args: Any) -> Any:
        with lock:
            return "x"

    def body() -> None:
        with held:
            list(map(use, sorted([1], key=lambda x: re.sub(".", use, "a") and x)))

    with stage.held(lock):
        expect(waiting(stage, body), holds(held), acquiring(lock))


@kinds
def test_in_a_specialised_with_that_ran_often(stage: Stage, kind: Any) -> None:
    lock, before = kind(), stage.gate()

    def use() -> None:
        with lock:
            pass

    def body() -> None:
        for _ in range(1000):
            use()
        before.wait()
        use()

    thread = stage.at(before, body)
    with stage.held(lock):
        before.open()
        until(lambda: any(s[2] == 1 for s in sightings(thread)))
        expect(thread, acquiring(lock))


@kinds
@pytest.mark.parametrize("how", ["trace", "profile", "monitor"])
def test_under_instrumentation(stage: Stage, kind: Any, how: str) -> None:
    import sys

    from looking import _watched

    if how == "monitor" and sys.version_info < (3, 12):
        pytest.skip("no sys.monitoring before 3.12")
    first, lock = threading.Lock(), kind()

    def take() -> None:
        with first:
            lock.acquire()
            try:
                pass
            finally:
                lock.release()

    def body() -> None:
        with _watched(how):
            take()

    with stage.held(lock):
        expect(waiting(stage, body), holds(first), acquiring(lock))


def test_a_lock_that_the_asking_thread_holds_is_what_it_waits_for(stage: Stage) -> None:
    """It is told apart by `assess`: only what the forking thread does not have itself is at risk of it."""
    import forkproof

    mine, theirs = threading.Lock(), threading.Lock()

    def body() -> None:
        with theirs, mine:
            pass

    with mine:
        thread = waiting(stage, body)
        told = [h for h in forkproof.assess().hazards if h.thread and h.thread.ident == thread.ident]
        assert [h.what for h in told if h.state == "acquiring"] == []
        assert [h.state for h in told] == ["holds"]


@kinds
def test_a_holder_that_is_seen_is_named_and_not_those_who_wait_for_it(stage: Stage, kind: Any) -> None:
    lock, gate = kind(), stage.gate()

    def hold() -> None:
        with lock:
            gate.wait()

    def wait() -> None:
        with lock:
            pass

    holder = stage.at(gate, hold)
    waiter = waiting(stage, wait)
    expect(holder, holds(lock))
    assert [(s[2], s[7] is lock) for s in sightings(waiter)] == [(1, True)]
    assert hazards(waiter) == []


class _Condition:
    """One of somebody's own, as gevent, Twisted and others have: who waits holds a lock that another lets go of."""

    def __init__(self) -> None:
        self.lock, self.waiters = threading.Lock(), []  # type: ignore[var-annotated]

    def wait(self, waiter: Any, acquire: Callable[..., bool] | None = None) -> None:
        waiter.acquire()
        self.waiters.append(waiter)
        self.lock.release()
        try:
            notified = acquire(waiter) if acquire else waiter.acquire(timeout=-1)
        finally:
            self.lock.acquire()
        if notified:
            waiter.release()


def _acquire(lock: Any) -> bool:
    return bool(lock.acquire(timeout=60))


@pytest.mark.parametrize("acquire", [None, _acquire], ids=["itself", "by a function"])
def test_who_waits_for_a_lock_that_it_has_itself_waits_for_a_signal(
    stage: Stage, acquire: Callable[..., bool] | None
) -> None:
    condition = _Condition()

    def body() -> None:
        with condition.lock:
            condition.wait(threading.Lock(), acquire)

    thread = waiting(stage, body)
    until(lambda: hazards(thread) == [])
    assert [s[7] is condition.waiters[0] for s in sightings(thread)] == [True]
    condition.waiters[0].release()


def test_a_lock_that_a_first_attempt_did_not_get_is_no_signal(stage: Stage) -> None:
    lock = threading.Lock()

    def body() -> None:
        if not lock.acquire(blocking=False):
            lock.acquire()
        lock.release()

    with stage.held(lock):
        expect(waiting(stage, body), acquiring(lock))


def test_a_lock_that_was_let_go_of_in_between_is_no_signal(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def body() -> None:
        lock.acquire()
        lock.release()
        gate.wait()
        lock.acquire()
        lock.release()

    thread = stage.at(gate, body)
    with stage.held(lock):
        gate.open()
        until(lambda: any(s[2] == 1 and s[7] is lock for s in sightings(thread)))
        expect(thread, acquiring(lock))
