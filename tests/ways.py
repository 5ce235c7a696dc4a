"""Ways to hold a lock: the managers that the random programs of truth.py use, one of each sort that people write."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any


class Guard:
    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __enter__(self) -> Guard:
        self.lock.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()


class Forwarding:
    """Calls the lock's own methods of a manager."""

    __slots__ = ("_lock", "count")

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.count = 0

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        self.count += 1
        return self._lock.__exit__(kind, error, traceback)


class Deeper(Guard):
    """Does it in a method of another name, and something before and after."""

    def _take(self) -> None:
        self.lock.acquire()

    def _give(self) -> None:
        self.lock.release()

    def __enter__(self) -> Deeper:
        nop(1)
        self._take()
        nop(2)
        return self

    def __exit__(self, *error: object) -> None:
        nop(3)
        self._give()
        nop(4)


class Careful(Guard):
    """Lets go in a `finally`."""

    def __exit__(self, *error: object) -> Any:
        try:
            nop(1)
        finally:
            self.lock.release()
        return False


class Outer(Guard):
    """The work is its base class's."""

    def __enter__(self) -> Any:
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)


class AsyncGuard:
    def __init__(self, lock: Any) -> None:
        self.lock = lock

    async def __aenter__(self) -> None:
        self.lock.acquire()

    async def __aexit__(self, *error: object) -> None:
        await turn()
        self.lock.release()


CLASSES = ["Guard", "Forwarding", "Deeper", "Careful", "Outer"]


@contextmanager
def plain(lock: Any) -> Iterator[None]:
    with lock:
        yield


@contextmanager
def by_hand(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def around(lock: Any) -> Iterator[None]:
    nop(1)
    with plain(lock):
        nop(2)
        yield
        nop(3)
    nop(4)


@contextmanager
def delegating(lock: Any) -> Generator[None, None, None]:
    yield from holding(lock)


GENERATORS = ["plain", "by_hand", "around", "delegating"]


@asynccontextmanager
async def slowly(lock: Any) -> AsyncIterator[None]:
    with lock:
        await turn()
        yield
        await turn()


def holding(lock: Any) -> Generator[None, None, None]:
    with lock:
        yield


def counting(lock: Any, times: int = 2) -> Iterator[int]:
    """Holds the lock now and then."""
    for i in range(times):
        with lock:
            yield i
        nop(i)


def trying(lock: Any) -> Iterator[int]:
    lock.acquire()
    try:
        yield 1
        nop(1)
        yield 2
    finally:
        lock.release()


ITERATORS = ["holding", "counting", "trying"]


class Turn:
    """Gives the driver of a coroutine control, once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def turn() -> Turn:
    return Turn()


async def ticking(lock: Any) -> AsyncIterator[int]:
    with lock:
        await turn()
        yield 1
        yield 2


def drive(coroutine: Any) -> Any:
    """Run a coroutine to its end, as a loop of events does."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


def synchronized(lock: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return function(*args, **kwargs)

        return inside

    return decorate


class Lazy:
    """Locks where the language calls: an attribute, an operator, an iteration, the making of an object."""

    def __init__(self, lock: Any, inside: Callable[[], object] | None = None) -> None:
        self._lock = lock
        self._inside = inside or nop
        if inside is None:
            with lock:
                nop(1)

    @property
    def value(self) -> int:
        with self._lock:
            self._inside()
            return 1

    def __add__(self, other: int) -> int:
        self._lock.acquire()
        try:
            self._inside()
            return other
        finally:
            self._lock.release()

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        with self._lock:
            self._inside()
        return 2

    def __iter__(self) -> Iterator[int]:
        with self._lock:
            self._inside()
        return iter((1,))

    def __call__(self) -> int:
        with self._lock:
            return self.value_of()

    def value_of(self) -> int:
        return 3


def nop(number: int = 0) -> int:
    return number


class Boom(Exception):
    pass
