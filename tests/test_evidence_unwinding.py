"""Forks at the moments when a frame has let go of what its value stack still shows: while an exception leaves it, while what a call
was given is let go of, and in trace, profile and monitoring functions in between. Code of the program's runs then, and other
threads get their turn, one of which forks.

To read what has been freed is a crash only if the memory is something else by then, so it is made something else at once.
tools/sanitize.py shows it in any case.
"""

# ruff: noqa: F811
from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from conftest import Run
from forking import watched
from looking import Stage, expect
from looking import stage as stage  # the fixture

# Each function comes by `moment()` wherever a `Dying` or a `with Telling` is let go of.
SHAPES = """
import functools, gc, itertools, weakref
from contextlib import ExitStack, contextmanager, suppress

class Dying:
    def __del__(self):
        moment()

class Temporary:
    def __init__(self):
        self.lock = threading.Lock()
    def __del__(self):
        pass

class Manager:
    def __init__(self):
        self.lock = threading.Lock()
    def __enter__(self):
        self.lock.acquire()
    def __exit__(self, *error):
        self.lock.release()
        moment()

class Static:  # nothing but the stack has it, and that lets go of it before it calls
    @staticmethod
    def __enter__():
        moment()
        raise ValueError
    @staticmethod
    def __exit__(*error):
        moment()

class Failing:
    def __init__(self, *arguments):
        moment()
        raise ValueError
    def __del__(self):
        moment()

def temporary_lock():
    return threading.Lock()

def fails(*arguments):
    raise ValueError

def generator():
    try:
        with temporary_lock():
            yield 1
            yield Dying()
    finally:
        moment()

def delegating():
    with temporary_lock():
        yield from generator()

@contextmanager
def manager():
    with temporary_lock():
        try:
            yield
        finally:
            moment()

def of_a_call_the_callable_then_its_argument():
    functools.partial(id)(Dying())

def of_a_call_with_keywords():
    functools.partial(dict)(a=Dying(), b=Temporary())

def of_a_call_with_a_list():
    functools.partial(id)(*[Dying()])

def of_a_failed_method_its_object_then_an_argument():
    Temporary().lock.acquire(Dying())

def of_a_failed_bound_method():
    getattr(Temporary().lock, "acquire")(Dying(), 1, 2)

def below_a_failed_method():
    [Dying(), Temporary().lock.acquire("bad")]

def below_a_failed_callable():
    [Dying(), functools.partial(int)("x")]

def below_a_failed_callable_with_a_list():
    [Dying(), functools.partial(int)(*["x"])]

def below_a_failed_call_that_was_given_an_iterator():
    [Dying(), print(itertools.chain([1], [2]), file=3)]

def below_an_exhausted_iterator():
    [Dying(), next(itertools.chain())]

def below_an_iterator_that_fails():
    [Dying(), list(map(fails, iter([1])))]

def below_a_with():
    with suppress(ValueError):
        for x in iter([Dying()]):
            for y in iter([Dying()]):
                with temporary_lock():
                    fails()

def out_of_the_frame():
    for x in iter([Dying()]):
        with temporary_lock():
            for y in iter([Dying()]):
                with Manager(), temporary_lock():
                    fails(Dying())

def out_of_a_finally():
    for x in enumerate([Dying()]):
        try:
            with temporary_lock():
                fails()
        finally:
            for y in zip(map(fails, [Dying()])):
                pass

def out_of_a_generator_manager():
    with manager(), temporary_lock():
        fails()

def out_of_an_exit_stack():
    with ExitStack() as stack:
        stack.enter_context(temporary_lock())
        stack.callback(moment)
        stack.push(Dying().__init__)
        fails()

def out_of_an_enter():
    with Static():
        pass

def out_of_an_init():
    [Dying(), Failing(Temporary(), Dying())]

def out_of_an_init_with_a_list():
    [Dying(), Failing(*[Temporary(), Dying()])]

def iterators_that_are_exhausted():
    for x in enumerate([Dying()]):
        del x
    for x in zip(iter([1]), map(lambda x: Dying(), [1])):
        del x
    for x in itertools.chain((i for i in [1]), [Dying()]):
        pass

def iterators_that_are_left():
    for x in generator():
        break
    for x in enumerate(delegating()):
        break
    for x in zip(map(str, generator()), delegating()):
        break

def generators_that_are_closed():
    for make in generator, delegating:
        made = make()
        next(made)
        made.close()

def generators_that_are_thrown_into():
    for make in generator, delegating:
        made = make()
        next(made)
        with suppress(ValueError):
            [Dying(), made.throw(ValueError(Dying()))]

def weakly_referenced():
    box = [Temporary()]
    reference = weakref.ref(box[0], lambda reference: moment())
    [box.pop(), functools.partial(int)("x")]

def coroutine():
    async def works():
        for x in iter([Dying()]):
            with temporary_lock():
                fails()
    works().send(None)

def garbage():
    threshold = gc.get_threshold()
    gc.set_threshold(20)
    try:
        for _ in range(30):
            cycle = [Dying()]
            cycle.append(cycle)
            del cycle
            with suppress(TypeError):
                Temporary().lock.acquire("bad")
            with suppress(ValueError):
                functools.partial(int)("x")
    finally:
        gc.set_threshold(*threshold)

first = list(globals()).index("of_a_call_the_callable_then_its_argument")
SHAPES = [shape for shape in list(globals().values())[first:] if callable(shape)]
CODES = {shape.__code__ for shape in SHAPES} | {f.__code__ for f in (generator, delegating, Manager.__exit__)}
"""

# How the frames are watched besides; `moment` is called where that may show something.
WAYS = {
    "": "",
    "trace": """
        def watch(frame, event, argument):
            if frame.f_code in CODES and event in ("exception", "return"):
                moment()
            return watch
        threading.settrace(watch)
    """,
    "opcodes": """
        def watch(frame, event, argument):
            frame.f_trace_opcodes = frame.f_code in CODES
            if frame.f_code in CODES and event in ("opcode", "exception", "return"):
                moment()
            return watch
        threading.settrace(watch)
    """,
    "profile": """
        def watch(frame, event, argument):
            if frame.f_code in CODES and event.startswith(("c_", "return")):
                moment()
        threading.setprofile(watch)
    """,
    "monitor": """
        monitoring = sys.monitoring
        names = "RAISE", "PY_UNWIND", "CALL", "C_RETURN", "C_RAISE", "EXCEPTION_HANDLED", "RERAISE", "PY_RETURN", "PY_THROW"
        def watch(code, *rest):
            if code in CODES:
                moment()
        monitoring.use_tool_id(4, "test")
        events = 0
        for name in names:
            monitoring.register_callback(4, getattr(monitoring.events, name), watch)
            events |= 0 if name in ("C_RETURN", "C_RAISE") else getattr(monitoring.events, name)
        monitoring.set_events(4, events)
    """,
}
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way or "finalizers")

# What has been freed is something else now: text, small numbers, addresses of objects.
REUSE = """
import struct
from forkproof import _native
words = [b"A" * 8, *(struct.pack("q", number) for number in (1, 8, id(int), id(threading)))]
def reused(turn, times):
    word = words[turn % len(words)]
    return [bytearray(word * size) for size in range(2, 66) for _ in range(times)]
held = threading.Lock()
def hold():
    with held:
        while True:
            time.sleep(100)
thread(hold)
until(held.locked)
"""


def needs(way: str) -> None:
    if way == "monitor" and sys.version_info < (3, 12):
        pytest.skip("no sys.monitoring before 3.12")


@ways
def test_a_fork_at_any_moment_of_unwinding_does_no_harm(run: Run, way: str) -> None:
    needs(way)
    stepped = """
        reached, go = threading.Semaphore(0), threading.Semaphore(0)
        turn, ended = 0, False
        def moment():
            global turn
            if threading.current_thread() is not actor or ended or turn - began > 60:
                return
            turn += 1
            kept = reused(turn, 20)
            reached.release()
            go.acquire()
        def act():
            global ended
            with suppress(ValueError, TypeError, AttributeError, StopIteration):
                shape()
            ended = True
            reached.release()
    """
    steps = """
        stops = 0
        for shape in SHAPES:
            ended, began, forked_at = False, turn, turn + 1
            actor = threading.Thread(target=act)
            actor.start()
            while reached.acquire() and not ended:
                stops += 1
                _native.look()
                if turn == forked_at:
                    forkproof.assess()
                    assert forked(lambda: None) == 0
                go.release()
            actor.join()
        print(len(SHAPES) <= stops)
    """
    install = "forkproof.install('observe', warn=False)"
    ended = run("-c", watched(SHAPES, REUSE, stepped, WAYS[way], steps, install=install))
    assert (ended.status, ended.stdout) == (0, "True\n"), ended.stderr


@pytest.mark.parametrize("way", ["", "trace", "monitor"], ids=lambda way: way or "finalizers")
def test_forks_beside_threads_that_unwind_all_the_time_do_no_harm(run: Run, way: str) -> None:
    needs(way)
    busy = """
        def moment():
            kept = reused(threading.get_ident() >> 12, 1)
            time.sleep(0)
    """
    forks = """
        SHAPES.remove(garbage)  # it would run in the forking thread as well
        def act(turn):
            while True:
                for i in range(len(SHAPES)):
                    with suppress(ValueError, TypeError, AttributeError, StopIteration):
                        SHAPES[(i + turn) % len(SHAPES)]()
        for turn in 0, 9, 18:
            thread(act, turn)
        for _ in range(10):
            for _ in range(20):
                _native.look()
                time.sleep(0.0005)
            assert forked(lambda: None) == 0
        print("forked")
        os._exit(sys.stdout.flush() or 0)
    """
    install = "forkproof.install(warn=False, wait=0.05)"
    ended = run("-c", watched(SHAPES, REUSE, busy, WAYS[way], forks, install=install))
    assert (ended.status, ended.stdout) == (0, "forked\n"), ended.stderr


def test_a_frame_that_an_exception_has_emptied_holds_nothing(stage: Stage) -> None:
    """It stands in its `with` again, and where its manager's exit method was is that of another lock."""
    lock, other, gate = threading.Lock(), threading.Lock(), stage.gate()

    def left() -> None:
        with lock:
            raise ValueError

    def tracer(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return" and frame.f_code is left.__code__:
            exits: list[Callable[..., object]] = [other.__exit__ for _ in range(1000)]
            gate.wait()
            exits.clear()
        return tracer

    def body() -> None:
        sys.settrace(tracer)
        with suppress(ValueError):
            left()
        sys.settrace(None)

    with stage.held(lock), stage.held(other):
        pass
    actor = stage.at(gate, body)
    with stage.held(lock), stage.held(other):
        expect(actor)
