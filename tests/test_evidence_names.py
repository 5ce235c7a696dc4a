"""What is held is told in words that a person recognises: the name by which the code that took it knows it."""

# ruff: noqa: F811
from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from looking import Stage, expect, hazards, holds, leaving
from looking import stage as stage  # the fixture

HERE = "test_evidence_names"
lock_of_module = threading.Lock()


class Guarded:
    """Its lock is let go of in `__exit__`, which stops first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.gate: Any = None

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *args: object) -> None:
        self.gate.wait()
        self.lock.release()


class Store:
    shared = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inner = Inner()
        self.permits = threading.Semaphore(1)
        self.guarded = Guarded()

    def direct(self, gate: Any) -> None:
        with self._lock:
            gate.wait()

    def short(self) -> None:
        with self._lock:
            pass

    def nested(self, gate: Any) -> None:
        with self.inner.deep:
            gate.wait()

    def finally_(self, gate: Any) -> None:
        self._lock.acquire()
        try:
            gate.wait()
        finally:
            self._lock.release()

    def permit(self, gate: Any) -> None:
        with self.permits:
            gate.wait()

    @classmethod
    def of_class(cls, gate: Any) -> None:
        with cls.shared:
            gate.wait()

    def captured(self, gate: Any) -> None:
        def stop() -> None:
            gate.wait(), self

        with self._lock:
            stop()

    def get_lock(self) -> Any:
        return self._lock

    def briefly(self) -> None:
        with self.get_lock():
            pass

    def called(self, gate: Any) -> None:
        with self.get_lock():
            gate.wait()


class Inner:
    def __init__(self) -> None:
        self.deep = threading.RLock()


class Derived(Store):
    pass


def name(stage: Stage, body: Any) -> str:
    gate = stage.gate()
    thread = stage.at(gate, body, gate)
    (hazard,) = hazards(thread)
    assert hazard.held_at is not None
    assert hazard.held_at.file == __file__
    return str(hazard.what)


def test_an_attribute_of_self(stage: Stage) -> None:
    assert name(stage, Store().direct) == f"self._lock of {HERE}.Store"


def test_the_class_is_the_objects_own(stage: Stage) -> None:
    assert name(stage, Derived().direct) == f"self._lock of {HERE}.Derived"


def test_an_attribute_of_an_attribute(stage: Stage) -> None:
    assert name(stage, Store().nested) == f"self.inner.deep of {HERE}.Store"


def test_acquired_until_a_finally(stage: Stage) -> None:
    assert name(stage, Store().finally_) == f"self._lock of {HERE}.Store"


def test_a_permit(stage: Stage) -> None:
    assert name(stage, Store().permit) == f"a permit of self.permits of {HERE}.Store"


def test_an_attribute_of_the_class(stage: Stage) -> None:
    assert name(stage, Store.of_class) == f"cls.shared of {HERE}.Store"


def test_a_self_in_a_cell(stage: Stage) -> None:
    assert name(stage, Store().captured) == f"self._lock of {HERE}.Store"


def test_a_call_that_gives_the_lock(stage: Stage) -> None:
    assert name(stage, Store().called) == f"self.get_lock() of {HERE}.Store"


def test_a_global(stage: Stage) -> None:
    def body(gate: Any) -> None:
        with lock_of_module:
            gate.wait()

    assert name(stage, body) == f"lock_of_module of {HERE}"


def test_a_local_and_a_closure(stage: Stage) -> None:
    outer, other = threading.Lock(), threading.Lock()

    def local(gate: Any) -> None:
        mine = other
        with mine:
            gate.wait()

    def closure(gate: Any) -> None:
        with outer:
            gate.wait()

    where = f"test_a_local_and_a_closure.<locals>.{{}} of {HERE}"
    assert name(stage, local) == "mine in " + where.format("local")
    assert name(stage, closure) == "outer in " + where.format("closure")


def test_through_a_contextmanager_function(stage: Stage) -> None:
    @contextmanager
    def locked(lock: Any) -> Any:
        with lock:
            yield

    def body(gate: Any) -> None:
        with locked(lock_of_module):
            gate.wait()

    assert name(stage, body).startswith("lock in test_through_a_contextmanager_function.<locals>.locked")


def test_no_value_of_a_local_is_read_out(stage: Stage) -> None:
    gate = stage.gate()

    class Telltale:
        def __repr__(self) -> str:
            raise AssertionError("looked at")

        __str__ = __repr__

    def body() -> None:
        secret = Telltale()
        password = "hunter2"
        with lock_of_module:
            gate.wait()
        del secret, password

    thread = stage.at(gate, body)
    expect(thread, holds(lock_of_module))
    assert "hunter2" not in repr(hazards(thread))


def test_the_place_is_the_line_of_the_with(stage: Stage) -> None:
    gate = stage.gate()

    def body() -> None:
        with lock_of_module:
            x = 1
            gate.wait()
            del x

    thread = stage.at(gate, body)
    (hazard,) = hazards(thread)
    assert hazard.held_at is not None
    assert hazard.held_at.line == body.__code__.co_firstlineno + 1
    assert hazard.held_at.function == "body"
    assert [f.function for f in hazard.stack][:2] == ["wait", "body"]
    assert hazard.stack[1].line == body.__code__.co_firstlineno + 3


@pytest.mark.parametrize("error", [False, True], ids=["normally", "by an exception"])
def test_a_with_that_is_being_left(stage: Stage, error: bool) -> None:
    store, gate = Store(), stage.gate()
    store.guarded.gate = gate

    def body() -> None:
        with suppress(KeyError), store.guarded:
            if error:
                raise KeyError

    thread = stage.at(gate, body)
    (hazard,) = hazards(thread)
    assert hazard.what == f"self.lock of {HERE}.Guarded"


def test_of_several_with_in_one_function_the_one_that_is_being_left(stage: Stage) -> None:
    """Their managers lie in one slot of the stack, one after the other."""
    gate = stage.gate()

    def body(one: Any, two: Any, three: Any) -> None:
        with one:
            pass
        with two:
            pass
        with three:
            pass

    thread = stopped_at_exit(
        stage, gate, body, body.__code__.co_firstlineno + 3, *[threading.Lock() for _ in "123"]
    )
    (hazard,) = hazards(thread)
    assert hazard.what.startswith("two in test_of_several"), hazard.what


def stopped_at_exit(stage: Stage, gate: Any, body: Any, line: int, *args: Any) -> Any:
    """The thread that runs `body`, stopped where it comes to the line of a `with` for the second time: to let go."""
    code, times = body.__code__, []

    def tracer(frame: Any, event: str, arg: object) -> Any:
        if frame.f_code is not code:
            return None
        if event == "line" and frame.f_lineno == line:
            times.append(line)
            if len(times) == 2:
                gate.wait()
        return tracer

    def run() -> None:
        sys.settrace(tracer)
        body(*args)
        sys.settrace(None)

    return stage.at(gate, run)


def test_a_plain_lock_that_is_being_left(stage: Stage) -> None:
    store = Store()
    thread = stopped_at_exit(stage, stage.gate(), Store.short, Store.short.__code__.co_firstlineno + 1, store)
    expect(thread, leaving(store._lock))
    (hazard,) = hazards(thread)
    assert hazard.what == f"self._lock of {HERE}.Store"


def test_by_a_return_of_a_value_too(stage: Stage) -> None:
    """The value lies below the manager then."""

    def body(one: Any, two: Any, value: int) -> int:
        with one:
            value += 1
        with two:
            return value + 1

    gate = stage.gate()
    thread = stopped_at_exit(
        stage, gate, body, body.__code__.co_firstlineno + 3, threading.Lock(), threading.Lock(), 1
    )
    (hazard,) = hazards(thread)
    assert hazard.what.startswith("two in test_by_a_return"), hazard.what


def test_a_call_that_gave_the_lock_which_is_being_left(stage: Stage) -> None:
    """What is entered has no name to compare with: it is the function's only `with`."""
    store, gate = Store(), stage.gate()
    line = Store.briefly.__code__.co_firstlineno + 1
    thread = stopped_at_exit(stage, gate, Store.briefly, line, store)
    expect(thread, leaving(store._lock))
    (hazard,) = hazards(thread)
    assert hazard.what == f"self.get_lock() of {HERE}.Store"
