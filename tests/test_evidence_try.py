"""`acquire()`, and a `release()` still to come: held from the one to the other, whichever way the code goes."""

# ruff: noqa: F811
from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

import pytest
from looking import Mode, Stage, expect, holds, leaving, modes, play, sightings
from looking import stage as stage  # the fixture

SHAPES = {
    "try/finally": """
        a.acquire()
        try:
            wait()  # a
        finally:
            a.release()
        wait()  # nothing
    """,
    "the normal copy of a finally body before and after release()": """
        a.acquire()
        try:
            wait()  # a
        finally:
            wait()  # a
            a.release()
            wait()  # nothing
        wait()  # nothing
    """,
    "the exceptional copy of a finally body before and after release()": """
        try:
            a.acquire()
            try:
                {}[1]
            finally:
                wait()  # a
                a.release()
                wait()  # nothing
        except KeyError:
            wait()  # nothing
    """,
    "only if the lock is there": """
        if a is not None:
            a.acquire()
        try:
            wait()  # a
        finally:
            wait()  # a
            if a is not None:
                a.release()
        wait()  # nothing
    """,
    "only if the lock is not false": """
        if a:
            a.acquire()
        try:
            wait()  # a
        finally:
            if a:
                a.release()
            wait()  # nothing
        wait()  # nothing
    """,
    "not where the lock is not there": """
        if not a:
            pass
        else:
            a.acquire()
            wait()  # a
        wait()  # a
        if a is None:
            pass
        else:
            a.release()
        wait()  # nothing
    """,
    "return in the try": """
        def inner():
            a.acquire()
            try:
                return wait()  # a
            finally:
                wait()  # a
                a.release()
                wait()  # nothing
        inner()
        wait()  # nothing
    """,
    "break in the try": """
        for x in (1, 2):
            a.acquire()
            try:
                wait()  # a
                break
            finally:
                wait()  # a
                a.release()
        wait()  # nothing
    """,
    "nested": """
        a.acquire()
        try:
            b.acquire()
            try:
                wait()  # a b
            finally:
                b.release()
            wait()  # a
        finally:
            a.release()
        wait()  # nothing
    """,
    "two released in one finally": """
        a.acquire()
        b.acquire()
        try:
            wait()  # a b
        finally:
            b.release()
            wait()  # a
            a.release()
        wait()  # nothing
    """,
    "with except and else": """
        a.acquire()
        try:
            wait()  # a
            {}[1]
        except KeyError:
            wait()  # a
        else:
            wait()  # skip
        finally:
            wait()  # a
            a.release()
        wait()  # nothing
    """,
    "acquired in an except body": """
        try:
            {}[1]
        except KeyError:
            a.acquire()
            try:
                wait()  # a
            finally:
                a.release()
            wait()  # nothing
    """,
    "acquired in a finally body": """
        try:
            pass
        finally:
            a.acquire()
            try:
                wait()  # a
            finally:
                a.release()
            wait()  # nothing
    """,
    "between acquire() and try": """
        a.acquire()
        wait()  # a
        try:
            wait()  # a
        finally:
            a.release()
    """,
    "straight on without try": """
        a.acquire()
        wait()  # a
        a.release()
        wait()  # nothing
    """,
    "released on one path only": """
        a.acquire()
        if len("x") == 1:
            wait()  # a
            a.release()
            wait()  # nothing
        else:
            wait()  # skip
            a.release()
        wait()  # nothing
    """,
    "with arguments": """
        if a.acquire(True, 5):
            try:
                wait()  # a
            finally:
                a.release()
        wait()  # nothing
    """,
    "with keyword arguments": """
        if a.acquire(blocking=True, timeout=5):
            try:
                wait()  # a
            finally:
                wait()  # a
                a.release()
        wait()  # nothing
    """,
    "acquire inside the try": """
        try:
            a.acquire()
            wait()  # a
        finally:
            a.release()
        wait()  # nothing
    """,
    "an RLock twice": """
        r.acquire()
        try:
            r.acquire()
            try:
                wait()  # r
            finally:
                r.release()
            wait()  # r
        finally:
            r.release()
        wait()  # nothing
    """,
    "within a with": """
        with a:
            b.acquire()
            try:
                wait()  # a b
            finally:
                b.release()
            wait()  # a
        wait()  # nothing
    """,
    "around a with": """
        b.acquire()
        try:
            with a:
                wait()  # a b
            wait()  # b
        finally:
            b.release()
        wait()  # nothing
    """,
    "in a loop that goes round again": """
        for i in range(3):
            a.acquire()
            try:
                if i == 2:
                    wait()  # a
            finally:
                a.release()
            if i == 2:
                wait()  # nothing
    """,
    "released and taken again inside": """
        with a:
            wait()  # a
            a.release()
            try:
                wait()  # nothing
            finally:
                a.acquire()
            wait()  # a
        wait()  # nothing
    """,
    "__enter__ and __exit__ by hand": """
        a.__enter__()
        try:
            wait()  # a
        finally:
            a.__exit__(None, None, None)
        wait()  # nothing
    """,
    "released in an except body that raises again": """
        try:
            a.acquire()
            try:
                wait()  # a
                {}[1]
            except BaseException:
                wait()  # a
                a.release()
                wait()  # nothing
                raise
        except KeyError:
            wait()  # nothing
    """,
    "one of two locks released early": """
        a.acquire()
        b.acquire()
        try:
            wait()  # a b
            a.release()
            wait()  # b
        finally:
            b.release()
        wait()  # nothing
    """,
}


@modes
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_acquired_is_held_until_its_release(shape: str, mode: Mode) -> None:
    play(SHAPES[shape], mode)


def test_a_lock_that_another_thread_took_is_not_of_the_one_that_would_release_it(stage: Stage) -> None:
    """At `acquire(False)` that failed, the finally is not this thread's."""
    lock, gate = threading.Lock(), stage.gate()

    def body() -> None:
        got = lock.acquire(blocking=False)
        gate.wait()
        if got:
            lock.release()

    with lock:
        thread = stage.at(gate, body)
        assert not [s for s in sightings(thread) if s[2] == 0 and s[4]], "it failed to take it"


def test_a_lock_of_locks_with_release_only_in_the_finally(stage: Stage) -> None:
    """The acquire is out of sight (in a helper); the frame that will release it shows it."""
    lock, gate = threading.Lock(), stage.gate()

    def take() -> None:
        lock.acquire()

    def body() -> None:
        take()
        try:
            gate.wait()
        finally:
            lock.release()

    expect(stage.at(gate, body), holds(lock))


def test_more_locks_than_there_is_room_for_are_no_error(stage: Stage) -> None:
    """Only so many expressions are followed in one function; the rest is not claimed."""
    count = 12
    locks = [threading.Lock() for _ in range(count)]
    gate = stage.gate()
    names = [f"lock{i}" for i in range(count)]
    lines = [f"    {n}.acquire()" for n in names] + ["    try:", "        wait()", "    finally:"]
    lines += [f"        {n}.release()" for n in names]
    space: dict[str, object] = {"wait": gate.wait}
    exec(f"def body({', '.join(names)}):\n" + "\n".join(lines), space)
    thread = stage.at(gate, space["body"], *locks)  # type: ignore[arg-type]
    seen = sightings(thread)
    assert {id(s[7]) for s in seen} <= {id(lock) for lock in locks}
    assert len({id(s[7]) for s in seen}) >= 7


def test_a_python_release_that_has_not_let_go_yet_is_leaving(stage: Stage) -> None:
    class Wrapped:
        def __init__(self) -> None:
            self.inner = threading.Lock()

        def acquire(self) -> bool:
            return self.inner.acquire()

        def release(self) -> None:
            late.wait()
            self.inner.release()

    wrapped, gate, late = Wrapped(), stage.gate(), stage.gate()

    def body() -> None:
        wrapped.acquire()
        try:
            gate.wait()
        finally:
            wrapped.release()

    thread = stage.at(gate, body)
    expect(thread, holds(wrapped.inner))
    gate.open()
    late.reached(thread)
    expect(thread, leaving(wrapped.inner))


def test_the_line_of_a_try_which_cannot_raise(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def body() -> None:
        with lock:
            wanted = True
            try:
                del wanted
            except NameError:
                raise

    def stop(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if frame.f_code is not body.__code__:
            return None
        if event == "line" and frame.f_lineno == body.__code__.co_firstlineno + 3:
            gate.wait()
        return stop

    def traced() -> None:
        sys.settrace(stop)
        body()

    expect(stage.at(gate, traced), holds(lock))
