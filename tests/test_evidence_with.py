"""`with`: what is entered and not left, in every shape of code, however it is run."""

from __future__ import annotations

import pytest
from looking import Mode, modes, play

SHAPES = {
    "one": """
        wait()  # nothing
        with a:
            wait()  # a
        wait()  # nothing
    """,
    "nested": """
        with a:
            with b:
                with c:
                    wait()  # a b c
                wait()  # a b
            wait()  # a
        wait()  # nothing
    """,
    "two in one with": """
        with a, b:
            wait()  # a b
        wait()  # nothing
    """,
    "parenthesised": """
        with (a, b as got, c):
            wait()  # a b c
        wait()  # nothing
    """,
    "one after the other": """
        with a:
            wait()  # a
        with b:
            wait()  # b
        with a:
            wait()  # a
    """,
    "in a for loop": """
        for i in range(2):
            with a:
                for j in (1,):
                    with b:
                        if i == 1:
                            wait()  # a b
                if i == 1:
                    wait()  # a
        wait()  # nothing
    """,
    "around a for loop": """
        with a:
            for i in [1, 2]:
                if i == 2:
                    wait()  # a
            else:
                wait()  # a
        wait()  # nothing
    """,
    "in a while loop with break and continue": """
        n = 0
        while True:
            n += 1
            with a:
                if n == 1:
                    continue
                with b:
                    if n == 3:
                        wait()  # a b
                        break
        wait()  # nothing
    """,
    "left by return in a finally": """
        def inner():
            with a:
                try:
                    return 1
                finally:
                    wait()  # a
        inner()
        wait()  # nothing
    """,
    "in try": """
        try:
            with a:
                wait()  # a
                raise KeyError
        except KeyError:
            wait()  # nothing
        else:
            wait()  # skip
        wait()  # nothing
    """,
    "around try": """
        with a:
            try:
                with b:
                    wait()  # a b
                    {}[1]
            except LookupError:
                wait()  # a
            finally:
                wait()  # a
            wait()  # a
    """,
    "in an except body": """
        try:
            raise KeyError
        except KeyError as error:
            with a:
                wait()  # a
            wait()  # nothing
            with b:
                try:
                    raise ValueError
                except ValueError:
                    with c:
                        wait()  # b c
                    wait()  # b
        wait()  # nothing
    """,
    "in a finally body reached normally": """
        try:
            pass
        finally:
            with a:
                wait()  # a
            wait()  # nothing
        wait()  # nothing
    """,
    "in a finally body reached by an exception": """
        try:
            try:
                {}[1]
            finally:
                with a:
                    wait()  # a
                wait()  # nothing
        except KeyError:
            with b:
                wait()  # b
    """,
    "in except* ": """
        try:
            raise ExceptionGroup("g", [ValueError(), KeyError()])
        except* ValueError:
            with a:
                wait()  # a
        except* KeyError:
            with b:
                wait()  # b
        wait()  # nothing
    """,
    "in match": """
        match [1, {"k": 2}]:
            case [1, {"k": x}] if x == 3:
                wait()  # skip
            case [int(y), {"k": 2, **rest}]:
                with a:
                    match y:
                        case 1:
                            with b:
                                wait()  # a b
                    wait()  # a
        wait()  # nothing
    """,
    "around a comprehension that waits": """
        with a:
            [wait() for x in (1,)]  # a
            {x: wait() for x in (1,)}  # a
        wait()  # nothing
    """,
    "around a lambda that waits": """
        with a:
            (lambda: wait())()  # a
        wait()  # nothing
    """,
    "amid a long expression": """
        with a:
            x = [1, 2, (3, {"four": [5, 6, wait()]})]  # a
            with b:
                y = (1 + 2) * len([7, 8, wait() or 9])  # a b
        wait()  # nothing
    """,
    "with targets unpacked": """
        class M:
            def __enter__(self):
                a.acquire()
                return 1, (2, 3)
            def __exit__(self, *args):
                a.release()
        with b as x:
            with r as y:
                wait()  # b r
    """,
    "an exception suppressed": """
        import contextlib
        with a:
            with contextlib.suppress(KeyError):
                with b:
                    wait()  # a b
                    raise KeyError
            wait()  # a
        wait()  # nothing
    """,
    "the manager made in the with": """
        get = lambda lock: lock
        with get(a):
            with [b][0]:
                wait()  # a b
    """,
    "the variable rebound inside": """
        x = a
        with x:
            x = None
            wait()  # a
            del x
            wait()  # a
    """,
    "an RLock twice": """
        with r:
            with r:
                wait()  # r
            wait()  # r
        wait()  # nothing
    """,
    "an RLock entered in one function and again in another": """
        def inner():
            with r, a:
                wait()  # r a
        with r:
            inner()
            wait()  # r
    """,
    "a deep nest": """
        with a:
            try:
                for i in (1,):
                    with b:
                        while True:
                            try:
                                with c:
                                    try:
                                        raise KeyError
                                    except KeyError:
                                        with r:
                                            wait()  # a b c r
                                        wait()  # a b c
                                    wait()  # a b c
                            finally:
                                wait()  # a b
                            break
                        wait()  # a b
            finally:
                wait()  # a
        wait()  # nothing
    """,
    "in a class body": """
        class C:
            with a:
                wait()  # a
            wait()  # nothing
    """,
    "in a nested function with its own cells": """
        def outer(lock):
            def inner():
                with lock:
                    return wait()  # a
            return inner()
        outer(a)
        wait()  # nothing
    """,
    "entered by exec": """
        space = {"lock": a, "pause": lambda: wait()}  # a
        exec("with lock:\\n    pause()", space)
        wait()  # nothing
    """,
    "around a call with all sorts of arguments": """
        with a:
            f = lambda *args, **kwargs: wait()  # a b
            with b:
                f(1, *[2, 3], x=4, **{"y": 5})
    """,
}


@modes
@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_what_has_been_entered_and_not_left_is_held(shape: str, mode: Mode) -> None:
    play(SHAPES[shape], mode)


def test_a_wrong_reading_would_fail() -> None:
    for wrong in ("nothing", "b", "a b", "?a", "<a"):
        with pytest.raises(AssertionError, match="at stop 0"):
            play(f"with a:\n    wait()  # {wrong}", Mode())
