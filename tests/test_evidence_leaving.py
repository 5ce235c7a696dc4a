"""Leaving: inside `__exit__`, before the `release()` of a `finally`, at an exception's exit: held until it lets go."""

# ruff: noqa: F811
from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from looking import Gate, Stage, expect, holds, leaving, sightings
from looking import stage as stage  # the fixture

KINDS = [threading.Lock, threading.RLock]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["Lock", "RLock"])


class Slow:
    """Stops in __exit__, before and after it has let go."""

    def __init__(self, lock: Any, before: Gate, after: Gate) -> None:
        self.lock, self.before, self.after = lock, before, after

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *args: object) -> None:
        self.before.wait()
        self.lock.release()
        self.after.wait()


@kinds
@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_inside_exit_it_is_held_until_let_go(stage: Stage, kind: Any, error: bool) -> None:
    lock, block, before, after = kind(), stage.gate(), stage.gate(), stage.gate()

    def body() -> None:
        with suppress(KeyError), Slow(lock, before, after):
            block.wait()
            if error:
                raise KeyError

    thread = stage.at(block, body)
    expect(thread, holds(lock))
    block.open()
    before.reached(thread)
    expect(thread, leaving(lock))
    before.open()
    after.reached(thread)
    expect(thread)


@pytest.mark.parametrize("way", ["return", "break", "continue"])
def test_inside_exit_on_other_ways_out(stage: Stage, way: str) -> None:
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    def body() -> Any:
        for _ in (1,):
            with Slow(lock, before, after):
                if way == "return":
                    return 1
                if way == "break":
                    break
                continue
        return None

    thread = stage.at(before, body)
    expect(thread, leaving(lock))
    before.open()
    after.reached(thread)
    expect(thread)


def test_a_return_of_a_value_traced_where_it_comes_back_to_the_with(stage: Stage) -> None:
    """The value lies above the manager there, and no exception leads to its `__exit__` any more."""
    outer, inner, gate = threading.Lock(), threading.RLock(), stage.gate()
    lines: list[int] = []

    def body() -> object:
        with outer:
            with inner:
                return object()

    def stop(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if frame.f_code is not body.__code__:
            return None
        if event == "line":
            lines.append(frame.f_lineno - body.__code__.co_firstlineno)
            if lines == [1, 2, 3, 2]:
                gate.wait()
        return stop

    def traced() -> None:
        sys.settrace(stop)
        body()

    expect(stage.at(gate, traced), holds(outer), leaving(inner))


@pytest.mark.parametrize("lines", [[1, 2, 3, 2], [1, 2, 3, 2, 1]])
def test_an_exception_traced_where_it_comes_to_the_with(stage: Stage, lines: list[int]) -> None:
    """Its `__exit__` has not been called, and the exception table leads to no `with` but the outer one any more."""
    outer, inner, gate = threading.Lock(), threading.Lock(), stage.gate()
    passed: list[int] = []

    def body() -> None:
        with outer:
            with inner:
                raise KeyError

    def stop(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if frame.f_code is not body.__code__:
            return None
        if event == "line":
            passed.append(frame.f_lineno - body.__code__.co_firstlineno)
            if passed == lines:
                gate.wait()
        return stop

    def traced() -> None:
        sys.settrace(stop)
        with suppress(KeyError):
            body()

    thread = stage.at(gate, traced)
    expect(thread, *([leaving(outer)] if lines[-1] == 1 else [holds(outer), leaving(inner)]))


def test_the_enclosing_with_is_held_while_the_inner_one_is_left(stage: Stage) -> None:
    outer, lock, before, after = threading.Lock(), threading.Lock(), stage.gate(), stage.gate()

    def body() -> None:
        with outer, Slow(lock, before, after):
            pass

    thread = stage.at(before, body)
    expect(thread, holds(outer), leaving(lock))
    before.open()
    after.reached(thread)
    expect(thread, holds(outer))


def test_the_enclosing_with_is_held_while_an_exception_leaves_the_inner_one(stage: Stage) -> None:
    outer, lock, before, after = threading.Lock(), threading.Lock(), stage.gate(), stage.gate()

    def body() -> None:
        with suppress(KeyError), outer, Slow(lock, before, after):
            raise KeyError

    thread = stage.at(before, body)
    expect(thread, holds(outer), leaving(lock))
    before.open()
    after.reached(thread)
    expect(thread, holds(outer))


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_a_contextmanager_that_runs_on_after_its_yield(stage: Stage, error: bool) -> None:
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    @contextmanager
    def slow() -> Any:
        lock.acquire()
        try:
            yield
        finally:
            before.wait()
            lock.release()
            after.wait()

    def body() -> None:
        with suppress(KeyError), slow():
            if error:
                raise KeyError

    thread = stage.at(before, body)
    seen = [(s[7] is lock, bool(s[4])) for s in sightings(thread)]
    assert seen == [(True, True)]
    assert sightings(thread)[0][2] in (0, 2)
    before.open()
    after.reached(thread)
    expect(thread)


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_an_exit_in_a_class_with_a_lock_of_its_own(stage: Stage, error: bool) -> None:
    """While __exit__ takes another lock, both are held."""
    lock, second, before = threading.Lock(), threading.Lock(), stage.gate()

    class Two:
        def __init__(self) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            with second:
                before.wait()
            self.lock.release()

    def body() -> None:
        with suppress(KeyError), Two():
            if error:
                raise KeyError

    expect(stage.at(before, body), leaving(lock), holds(second))


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_an_exit_whose_self_is_a_cell(stage: Stage, error: bool) -> None:
    lock, before = threading.Lock(), stage.gate()

    class Captured:
        def __init__(self) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            def give() -> None:
                before.wait()
                self.lock.release()

            give()

    def body() -> None:
        with suppress(KeyError), Captured():
            if error:
                raise KeyError

    # Its exit keeps `self` in a cell: what __exit__ releases is not in it, what __enter__ acquired is.
    expect(stage.at(before, body), leaving(lock))


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_async_exit(stage: Stage, error: bool) -> None:
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    class Slowly:
        def __init__(self) -> None:
            self.lock = lock

        async def __aenter__(self) -> None:
            self.lock.acquire()

        async def __aexit__(self, *args: object) -> None:
            before.wait()
            self.lock.release()
            after.wait()

    async def main() -> None:
        with suppress(KeyError):
            async with Slowly():
                if error:
                    raise KeyError

    def body() -> None:
        with suppress(StopIteration):
            main().send(None)

    thread = stage.at(before, body)
    seen = [(s[7] is lock, bool(s[4])) for s in sightings(thread)]
    assert seen == [(True, True)]
    before.open()
    after.reached(thread)
    expect(thread)


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_a_profile_function_that_runs_before_release_is_called(stage: Stage, error: bool) -> None:
    import sys

    lock, there = threading.Lock(), stage.gate()
    armed = False

    def watch(frame: Any, event: str, arg: Any) -> Any:
        if armed and event == "c_call" and getattr(arg, "__name__", "") == "release":
            there.wait()
        return watch

    def body() -> None:
        nonlocal armed
        sys.setprofile(watch)
        try:
            lock.acquire()
            try:
                armed = True
                if error:
                    raise KeyError
            finally:
                lock.release()
                armed = False
        except KeyError:
            pass
        finally:
            sys.setprofile(None)

    thread = stage.at(there, body)
    seen = [(s[7] is lock, bool(s[4])) for s in sightings(thread)]
    assert seen == [(True, True)]


def test_between_the_end_of_enter_and_the_block(stage: Stage) -> None:
    """An __enter__ that has its lock and has not returned: whoever looks sees the lock held."""
    lock, gate = threading.Lock(), stage.gate()

    class Late:
        def __enter__(self) -> None:
            lock.acquire()
            gate.wait()
            self.done = True

        def __exit__(self, *args: object) -> None:
            lock.release()

    def body() -> None:
        with Late():
            pass

    expect(stage.at(gate, body), holds(lock))


def test_an_enter_that_has_not_taken_its_lock_yet_holds_nothing(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    class Early:
        def __init__(self) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            gate.wait()
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            self.lock.release()

    def body() -> None:
        with Early():
            pass

    with stage.held(lock):
        thread = stage.at(gate, body)
        expect(thread)
        gate.open()


# What has been let go of may be another thread's by now: the lock is locked, and this thread does not have it.


def taken_meanwhile(stage: Stage, make: Any, *, certain: bool = True, gone: bool = True) -> None:
    """A thread inside `__exit__` of `make(lock, before, after)`, before and after it has let go; once it has, a third
    thread has the lock."""
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    def body() -> None:
        with make(lock, before, after):
            pass

    thread = stage.at(before, body)
    expect(thread, leaving(lock, certain=certain))
    before.open()
    after.reached(thread)
    with stage.held(lock):
        assert lock.locked()
        expect(thread, *([] if gone else [leaving(lock, certain=False)]))
        after.open()
        thread.join(20)


class Base:
    def __init__(self, lock: Any, before: Gate, after: Gate) -> None:
        self.lock, self.before, self.after = lock, before, after
        self.free = lock.release
        self.armed, self.unarmed = True, False

    def __enter__(self) -> None:
        self.lock.acquire()

    def unlock(self) -> None:
        self.before.wait()
        self.lock.release()

    def release(self) -> None:
        self.before.wait()
        self.lock.release()
        self.after.wait()

    def unlock_early(self) -> None:
        if self.armed:
            self.lock.release()
            return
        self.lock.release()


class Plain(Base):
    def __exit__(self, *args: object) -> None:
        self.before.wait()
        self.lock.release()
        self.after.wait()


class OfTheLock(Base):
    def __exit__(self, *args: object) -> None:
        self.before.wait()
        self.lock.__exit__(*args)
        self.after.wait()


class ByName(Base):
    def __exit__(self, *args: object) -> None:
        lock = self.lock
        self.before.wait()
        lock.release()
        self.after.wait()


class ByMethod(Base):
    def __exit__(self, *args: object) -> None:
        release = self.lock.release
        self.before.wait()
        release()
        self.after.wait()


class ByAttribute(Base):
    def __exit__(self, *args: object) -> None:
        self.before.wait()
        self.free()
        self.after.wait()


class ByHelper(Base):
    def __exit__(self, *args: object) -> None:
        self.unlock()
        self.after.wait()


class InHelper(Base):
    def __exit__(self, *args: object) -> None:
        self.release()


class ByEveryWayOfAHelper(Base):
    def __exit__(self, *args: object) -> None:
        self.before.wait()
        self.unlock_early()
        self.after.wait()


class InFinally(Base):
    def __exit__(self, *args: object) -> None:
        try:
            self.before.wait()
        finally:
            self.lock.release()
            self.after.wait()


class InBranch(Base):
    def __exit__(self, *args: object) -> None:
        if self.armed:
            self.before.wait()
            self.lock.release()
            self.after.wait()


class InLoop(Base):
    def __exit__(self, *args: object) -> None:
        for _ in (1,):
            self.before.wait()
            self.lock.release()
        else:
            self.after.wait()


class InSuper(Plain):
    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)


class SelfInACell(Base):
    def __exit__(self, *args: object) -> None:
        def give() -> None:
            self.before.wait()
            self.lock.release()
            self.after.wait()

        give()


class OtherName(Base):
    def leave(self, *args: object) -> None:
        self.before.wait()
        self.lock.release()
        self.after.wait()

    __exit__ = leave


LETS_GO = [Plain, OfTheLock, ByName, ByMethod, ByAttribute, ByHelper, InHelper, ByEveryWayOfAHelper, InFinally, InBranch,
           InSuper, SelfInACell, OtherName]  # fmt: skip


@pytest.mark.parametrize("make", LETS_GO, ids=lambda make: make.__name__)
def test_what_has_been_let_go_of_is_not_this_threads(stage: Stage, make: Any) -> None:
    taken_meanwhile(stage, make)


class Maybe(Base):
    def __exit__(self, *args: object) -> None:
        self.before.wait()
        if self.armed:
            self.lock.release()
        self.after.wait()


class BySuper(Base):
    """What is called by super() is followed: to the class behind this one."""

    class Parent(Base):
        def __exit__(self, *args: object) -> None:
            self.before.wait()
            self.lock.release()

    def __new__(cls, *args: Any) -> Any:
        class Child(cls.Parent):
            def __exit__(self, *args: object) -> None:
                super().__exit__(*args)
                self.after.wait()

        return Child(*args)


def test_what_a_base_class_has_let_go_of_is_not_this_threads(stage: Stage) -> None:
    taken_meanwhile(stage, BySuper)


@pytest.mark.parametrize("make", [Maybe], ids=lambda make: make.__name__)
def test_what_may_have_been_let_go_of_is_only_possible(stage: Stage, make: Any) -> None:
    taken_meanwhile(stage, make, gone=False)


def test_a_loop_that_lets_go_may_come_to_it_again(stage: Stage) -> None:
    taken_meanwhile(stage, InLoop, certain=False, gone=False)


def test_a_lock_that_is_let_go_of_only_for_a_moment_is_held_after_it(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    class Moment(Base):
        def __exit__(self, *args: object) -> None:
            self.lock.release()
            self.lock.acquire()
            gate.wait()
            self.lock.release()

    def body() -> None:
        with Moment(lock, gate, gate):
            pass

    expect(stage.at(gate, body), leaving(lock))


def test_what_a_branch_has_not_let_go_of_is_held(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    class Other(Base):
        def __exit__(self, *args: object) -> None:
            if self.unarmed:
                self.lock.release()
                return
            gate.wait()
            self.lock.release()

    def body() -> None:
        with Other(lock, gate, gate):
            pass

    expect(stage.at(gate, body), leaving(lock))


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_by_an_exception_too(stage: Stage, error: bool) -> None:
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    def body() -> None:
        with suppress(KeyError), Plain(lock, before, after):
            if error:
                raise KeyError

    thread = stage.at(before, body)
    expect(thread, leaving(lock))
    before.open()
    after.reached(thread)
    with stage.held(lock):
        expect(thread)
        after.open()
        thread.join(20)


def test_a_release_of_python_that_has_let_go_already(stage: Stage) -> None:
    """`acquire()` and `release()` of a class, in a `finally`: the same as inside __exit__."""
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    class Wrapped(Base):
        def acquire(self) -> None:
            self.lock.acquire()

    wrapped = Wrapped(lock, before, after)

    def body() -> None:
        wrapped.acquire()
        try:
            pass
        finally:
            wrapped.release()

    thread = stage.at(before, body)
    expect(thread, leaving(lock))
    before.open()
    after.reached(thread)
    with stage.held(lock):
        expect(thread)
        after.open()
        thread.join(20)


@pytest.mark.parametrize("style", ["with", "finally"])
def test_a_generator_that_has_let_go_already(stage: Stage, style: str) -> None:
    lock, before, after = threading.Lock(), stage.gate(), stage.gate()

    @contextmanager
    def by_with() -> Any:
        with lock:
            yield
            before.wait()
        after.wait()

    @contextmanager
    def by_finally() -> Any:
        lock.acquire()
        try:
            yield
        finally:
            before.wait()
            lock.release()
            after.wait()

    def body() -> None:
        with by_with() if style == "with" else by_finally():
            pass

    thread = stage.at(before, body)
    assert [(s[7] is lock, bool(s[4])) for s in sightings(thread)] == [(True, True)]
    before.open()
    after.reached(thread)
    with stage.held(lock):
        expect(thread)
        after.open()
        thread.join(20)


class _Collected(deque[Any]):
    """Callbacks of an ExitStack: the next collection is due when one has been taken from it, and not before."""

    def __bool__(self) -> bool:
        more = len(self) > 0
        self.made = [{0}, {1}, {2}]  # no free lists are kept of sets
        return more


@pytest.mark.skipif(sys.version_info < (3, 12), reason="it collects where something is allocated")
def test_an_exit_stack_that_has_taken_a_callback_and_collects_garbage(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()
    lines, first = inspect.getsourcelines(ExitStack.__exit__)
    taking = {first + at for at, line in enumerate(lines) if "_exit_callbacks.pop()" in line}

    def note(phase: str, info: dict[str, int]) -> None:
        frame = sys._getframe().f_back
        if (
            frame
            and frame.f_code is ExitStack.__exit__.__code__
            and frame.f_lineno in taking
            and phase == "start"
        ):
            gc.callbacks.remove(note)
            gate.wait()

    def body() -> None:
        stack = ExitStack()
        with stack:
            stack.enter_context(lock)
            stack._exit_callbacks = _Collected(stack._exit_callbacks)  # type: ignore[attr-defined]
            gc.callbacks.append(note)
            gc.set_threshold(1)

    thresholds = gc.get_threshold()
    try:
        thread = stage.at(gate, body)
        expect(thread, leaving(lock))
    finally:
        gc.set_threshold(*thresholds)
