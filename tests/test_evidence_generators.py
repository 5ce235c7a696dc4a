"""Generators and coroutines: a suspended one holds what it has entered, for the thread that will go on with it."""

# ruff: noqa: F811
from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator

import pytest
from looking import Mode, Stage, expect, holds, modes, play
from looking import stage as stage  # the fixture

SHAPES = {
    "a generator that a for loop iterates": """
        def gen():
            with a:
                yield 1
        for x in gen():
            wait()  # a
        wait()  # nothing
    """,
    "a generator that is running": """
        def gen():
            with a:
                wait()  # a
                yield 1
            wait()  # nothing
        for x in gen():
            pass
    """,
    "nested loops over generators": """
        def gen(lock):
            with lock:
                yield 1
        for x in gen(a):
            for y in gen(b):
                wait()  # a b
            wait()  # a
        wait()  # nothing
    """,
    "a generator with try/finally": """
        def gen(lock):
            lock.acquire()
            try:
                yield 1
            finally:
                lock.release()
        for x in gen(a):
            wait()  # a
        wait()  # nothing
    """,
    "a generator suspended outside its with": """
        def gen():
            yield 0
            with a:
                yield 1
            yield 2
        for x in gen():
            if x == 0:
                wait()  # nothing
            elif x == 1:
                wait()  # a
            else:
                wait()  # nothing
    """,
    "an iterator that keeps a generator": """
        class Rows:
            def __init__(rows):
                rows.left = rows.read()
            def __iter__(rows):
                return rows
            def __next__(rows):
                return next(rows.left)
            def read(rows):
                with a:
                    yield 1
                yield 2
        for x in Rows():
            if x == 1:
                wait()  # a
            else:
                wait()  # nothing
    """,
    "a generator that delegates": """
        def inner():
            with b:
                yield 1
        def outer():
            with a:
                yield from inner()
        for x in outer():
            wait()  # a b
        wait()  # nothing
    """,
    "a generator over a generator": """
        def inner():
            with b:
                yield 1
        def outer():
            for x in inner():
                with a:
                    yield x
        for x in outer():
            wait()  # a b
        wait()  # nothing
    """,
    "a generator in a variable, advanced by next()": """
        def gen():
            with a:
                yield 1
        g = gen()
        wait()  # nothing
        next(g)
        wait()  # a
        g.close()
        wait()  # nothing
    """,
    "a generator in a variable, iterated later": """
        def gen():
            with a:
                yield 1
                yield 2
        g = gen()
        next(g)
        for x in g:
            wait()  # a
        wait()  # nothing
    """,
    "a generator expression": """
        with b:
            for x in (y for y in [1]):
                wait()  # b
        wait()  # nothing
    """,
    "a generator that drives a comprehension": """
        def gen():
            with a:
                yield 1
        got = [wait() for x in gen()]  # a
        wait()  # nothing
    """,
    "a generator behind enumerate, zip and map": """
        def gen():
            with a:
                yield 1
        for n, x in enumerate(gen()):
            wait()  # a
        for n, x in zip([1], gen()):
            wait()  # a
        for x in map(str, gen()):
            wait()  # a
        for x in filter(None, gen()):
            wait()  # a
    """,
    "a coroutine with a lock across a C call": """
        async def co():
            with a:
                wait()  # a
            wait()  # nothing
        try:
            co().send(None)
        except StopIteration:
            pass
        wait()  # nothing
    """,
    "a coroutine awaited by another": """
        async def inner():
            with b:
                wait()  # a b
            wait()  # a
        async def outer():
            with a:
                await inner()
            wait()  # nothing
        try:
            outer().send(None)
        except StopIteration:
            pass
    """,
    "async with over a class that takes a threading lock": """
        class M:
            def __init__(self, lock): self.lock = lock
            async def __aenter__(self): self.lock.acquire()
            async def __aexit__(self, *args):
                self.lock.release()
        async def co():
            async with M(a), M(b):
                wait()  # a b
            wait()  # nothing
        try:
            co().send(None)
        except StopIteration:
            pass
    """,
    "async for over an asynchronous generator": """
        async def gen():
            with a:
                yield 1
        async def co():
            async for x in gen():
                wait()  # a
            wait()  # nothing
        try:
            co().send(None)
        except StopIteration:
            pass
    """,
    "asynccontextmanager": """
        import contextlib
        @contextlib.asynccontextmanager
        async def m(lock):
            with lock:
                yield
        async def co():
            async with m(a):
                wait()  # a
            wait()  # nothing
        try:
            co().send(None)
        except StopIteration:
            pass
    """,
    "AsyncExitStack": """
        import contextlib
        class M:
            def __init__(self, lock): self.lock = lock
            async def __aenter__(self): self.lock.acquire()
            async def __aexit__(self, *args): self.lock.release()
        async def co():
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(a)
                await stack.enter_async_context(M(b))
                wait()  # a b
            wait()  # nothing
        try:
            co().send(None)
        except StopIteration:
            pass
    """,
    "send() and throw()": """
        def gen():
            with a:
                try:
                    x = yield 1
                    yield x
                except KeyError:
                    with b:
                        yield 3
        g = gen()
        next(g)
        g.send(5)
        wait()  # a
        g.throw(KeyError)
        wait()  # a b
        g.close()
        wait()  # nothing
    """,
}


@modes
@pytest.mark.parametrize("shape", SHAPES)
def test_a_generator_holds_while_its_consumer_runs(shape: str, mode: Mode) -> None:
    play(SHAPES[shape], mode)


def test_a_generator_that_nobody_in_the_thread_refers_to_is_not_of_it(stage: Stage) -> None:
    """It belongs to whoever goes on with it: the list of another function does not make it this thread's."""
    lock, gate = threading.Lock(), stage.gate()

    def gen() -> Generator[int, None, None]:
        with lock:
            yield 1

    generator = gen()
    next(generator)
    expect(stage.at(gate, gate.wait))
    generator.close()


def test_an_event_loop_thread_that_runs_a_task(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    async def main() -> None:
        await asyncio.sleep(0)
        with lock:
            gate.wait()

    thread = stage.at(gate, lambda: asyncio.run(main()))
    expect(thread, holds(lock))


def test_an_asyncio_lock_is_no_lock_of_threads(stage: Stage) -> None:
    gate = stage.gate()

    async def main() -> None:
        async with asyncio.Lock(), asyncio.Semaphore(1), asyncio.Condition():
            gate.wait()

    expect(stage.at(gate, lambda: asyncio.run(main())))


def test_an_asynchronous_generator_under_an_event_loop(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    async def numbers() -> AsyncIterator[int]:
        with lock:
            await asyncio.sleep(0)
            yield 1

    async def main() -> None:
        async for _ in numbers():
            gate.wait()

    expect(stage.at(gate, lambda: asyncio.run(main())), holds(lock))
