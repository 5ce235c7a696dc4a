"""`Condition.wait`: it holds its lock before and after, and not while it sleeps."""

# ruff: noqa: F811
from __future__ import annotations

import queue
import sys
import threading
from typing import Any

import pytest
from looking import Stage, acquiring, expect, hazards, holds, sightings, until
from looking import stage as stage  # the fixture

from forkproof import _native

KINDS = [threading.Lock, threading.RLock]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["Lock", "RLock"])


def asleep(condition: threading.Condition, count: int = 1) -> None:
    """Return once so many threads sleep in wait() of the condition, and have let go of its lock."""

    def sleeping() -> bool:
        tops = [f for f in sys._current_frames().values() if f.f_code is threading.Condition.wait.__code__]
        return sum(f.f_locals.get("self") is condition and "saved_state" in f.f_locals for f in tops) == count

    until(sleeping)
    assert sum(c is condition for c, _ in _native.waiters()) == count
    for _, waiter in _native.waiters():
        assert waiter.locked()


@kinds
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_thread_that_waits_has_let_go(stage: Stage, kind: Any, timeout: float | None) -> None:
    condition = threading.Condition(kind())

    def body() -> None:
        with condition:
            condition.wait(timeout)

    thread = stage.start(body)
    asleep(condition)
    expect(thread)
    with condition:
        condition.notify()


@kinds
def test_a_thread_that_waits_has_let_go_though_another_holds_the_lock(stage: Stage, kind: Any) -> None:
    lock, gate = kind(), stage.gate()
    condition = threading.Condition(lock)

    def wait() -> None:
        with condition:
            condition.wait()

    def hold() -> None:
        with condition:
            condition.notify_all()
            gate.wait()

    waiter = stage.start(wait)
    asleep(condition)
    holder = stage.at(gate, hold)
    expect(holder, holds(lock))
    until(lambda: sightings(waiter))
    seen = sightings(waiter)
    assert [(s[2], s[7] is lock) for s in seen] == [(1, True)]
    assert seen[0][10].co_name in ("wait", "_acquire_restore")
    assert hazards(waiter) == []


@kinds
def test_a_thread_that_was_woken_is_acquiring(stage: Stage, kind: Any) -> None:
    """Whoever has the lock now is not seen, so that the one who waits for it is the one to name."""
    lock = kind()
    condition = threading.Condition(lock)

    def wait() -> None:
        with condition:
            condition.wait()

    waiter = stage.start(wait)
    asleep(condition)
    with stage.held(lock):
        for sleeper in condition._waiters:  # type: ignore[attr-defined]
            sleeper.release()  # what notify() does, for which it would want the lock
        until(lambda: sightings(waiter))
        expect(waiter, acquiring(lock))


@kinds
def test_before_release_save_and_after_acquire_restore_it_holds(stage: Stage, kind: Any) -> None:
    lock, before, after = kind(), stage.gate(), stage.gate()

    class Stops(threading.Condition):
        def _release_save(self) -> Any:
            before.wait()
            return save()

        def _acquire_restore(self, state: Any) -> None:
            if kind is threading.RLock:
                self._lock._acquire_restore(state)  # type: ignore[attr-defined]
            else:
                self._lock.acquire()  # type: ignore[attr-defined]
            after.wait()

    def save() -> Any:
        return lock._release_save() if kind is threading.RLock else lock.release()

    condition = Stops(lock)
    for name in ("_release_save", "_acquire_restore"):
        condition.__dict__.pop(name, None)  # of an RLock, Condition takes these as they are

    def wait() -> None:
        with condition:
            condition.wait()

    thread = stage.at(before, wait)
    expect(thread, holds(lock))
    before.open()
    asleep(condition)
    expect(thread)
    with condition:
        condition.notify()
    after.reached(thread)
    expect(thread, holds(lock))


@kinds
def test_the_outer_with_of_a_recursive_rlock_has_been_let_go_too(stage: Stage, kind: Any) -> None:
    outer, lock = threading.Lock(), kind()
    condition = threading.Condition(lock)

    def body() -> None:
        with outer, condition:
            if kind is threading.RLock:
                with condition:
                    condition.wait()
            else:
                condition.wait()

    thread = stage.start(body)
    asleep(condition)
    expect(thread, holds(outer))
    with condition:
        condition.notify()


def test_wait_for_and_events_and_barriers_hold_nothing(stage: Stage) -> None:
    condition, event, barrier = threading.Condition(), threading.Event(), threading.Barrier(2)
    done = False

    def body() -> None:
        with condition:
            condition.wait_for(lambda: done)

    waits = [
        (stage.start(body), condition),
        (stage.start(event.wait), event._cond),  # type: ignore[attr-defined]
        (stage.start(barrier.wait), barrier._cond),  # type: ignore[attr-defined]
    ]
    for thread, inner in waits:
        asleep(inner)
        expect(thread)
    done = True
    with condition:
        condition.notify()
    event.set()
    barrier.wait()


def test_queues_that_wait_hold_nothing(stage: Stage) -> None:
    empty: queue.Queue[int] = queue.Queue()
    full: queue.Queue[int] = queue.Queue(1)
    full.put(1)
    getter, putter = stage.start(empty.get), stage.start(full.put, 2)
    asleep(empty.not_empty)
    asleep(full.not_full)
    expect(getter)
    expect(putter)
    empty.put(1)
    full.get()


def test_an_idle_executor_holds_nothing(stage: Stage) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(abs, range(10)))
        for worker in pool._threads:
            until(lambda worker=worker: not hazards(worker))  # type: ignore[misc]
            assert [s for s in sightings(worker) if s[2] != 1] == []


def test_a_thread_that_waits_with_a_time_limit_is_queued_as_a_waiter(stage: Stage) -> None:
    condition = threading.Condition()

    def body() -> None:
        with condition:
            condition.wait(50)

    stage.start(body)
    stage.start(body)
    asleep(condition, 2)
    found = {id(w) for c, w in _native.waiters() if c is condition}
    assert found == {id(w) for w in condition._waiters}  # type: ignore[attr-defined]
    with condition:
        condition.notify_all()
