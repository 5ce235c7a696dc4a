"""Objects of a thread's own, whose methods wait with a lock and are called in the ways that Python code has: no hazard, since no
child can come by them. The same ones in other hands are hazards."""

# ruff: noqa: F811
from __future__ import annotations

import asyncio
import bisect
import collections
import contextlib
import contextvars
import copy
import csv
import ctypes
import dataclasses
import functools
import html.parser
import io
import itertools
import json
import operator
import queue
import sys
import threading
import types
import weakref
import xml.etree.ElementTree
import xml.parsers.expat
import xml.sax
from collections.abc import Callable
from typing import Any

import pytest
from looking import Gate, Stage, hazards
from looking import stage as stage  # the fixture

shared: list[Any] = []


class Own:
    """Its first work waits at the gate, with a lock."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.lock, self.done = gate, threading.Lock(), False

    def work(self, *_: Any, **__: Any) -> int:
        if not self.done:
            self.done = True
            with self.lock:
                self.gate.wait()
        return 1


CALLS: dict[str, Callable[[Own], Any]] = {
    "key of sorted": lambda own: sorted([1, 2], key=own.work),
    "key of sort": lambda own: [2, 1].sort(key=own.work),
    "key of bisect": lambda own: bisect.bisect([1, 2, 3], 2, key=own.work),
    "list of a map": lambda own: list(map(own.work, [1, 2])),
    "tuple of a map": lambda own: tuple(map(own.work, [1, 2])),
    "set of a map": lambda own: set(map(own.work, [1, 2])),
    "sum of a map": lambda own: sum(map(own.work, [1, 2])),
    "any of a map": lambda own: any(map(own.work, [1, 2])),
    "list of a filter": lambda own: list(filter(own.work, [1, 2])),
    "list of a zip": lambda own: list(zip(map(own.work, [1, 2]), [1, 2], strict=True)),
    "list of an enumerate": lambda own: list(enumerate(map(own.work, [1, 2]))),
    "display of a map": lambda own: [*map(own.work, [1, 2])],
    "for of a map": lambda own: [x for x in map(own.work, [1, 2])],  # noqa: C416
    "sum of a generator": lambda own: sum(own.work() for _ in [1, 2]),
    "any of a generator": lambda own: any(own.work() for _ in [1, 2]),
    "next of an iterator": lambda own: next(iter(own.work, None)),
    "next of a map": lambda own: next(map(own.work, [1])),
    "next of a generator": lambda own: next(x for x in map(own.work, [1])),
    "partial": lambda own: functools.partial(own.work, 1, b=2)(),
    "getattr": lambda own: getattr(own, "work")(),  # noqa: B009
    "starmap": lambda own: list(itertools.starmap(own.work, [(1, 2)])),
    "accumulate": lambda own: list(itertools.accumulate([1, 2, 3], own.work)),
    "takewhile": lambda own: list(itertools.takewhile(own.work, [1, 2])),
    "groupby": lambda own: list(itertools.groupby([1, 2], own.work)),
    "chain": lambda own: list(itertools.chain(map(own.work, [1]), [2])),
    "islice": lambda own: list(itertools.islice(map(own.work, [1, 2, 3]), 2)),
    "tee": lambda own: next(itertools.tee(map(own.work, [1, 2]))[0]),
    "json's default": lambda own: json.dumps({"a": object()}, default=own.work),
    "json's hook": lambda own: json.loads('{"a": 1}', object_hook=own.work),
    "ctypes": lambda own: ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(own.work)(1),
    "csv": lambda own: list(csv.reader(x for x in [str(own.work())])),
    "context": lambda own: contextvars.copy_context().run(own.work, 1),
    "list": lambda own: [own][0].work(),  # noqa: RUF015
    "dict": lambda own: {"a": own}["a"].work(),
    "deque": lambda own: collections.deque([own]).popleft().work(),
    "weak method": lambda own: weakref.WeakMethod(own.work)()(),  # type: ignore[misc]
    "weak proxy": lambda own: weakref.proxy(own).work(),
    "dict comprehension": lambda own: {k: own.work() for k in [1]},
    "set comprehension": lambda own: {own.work() for _ in [1]},
    "default": lambda own: (lambda own=own: own.work())(),
    "keyword": lambda own: (lambda *, own: own.work())(own=own),
    "namespace": lambda own: types.SimpleNamespace(own=own).own.work(),
    "lru_cache": lambda own: functools.lru_cache(lambda _: own.work())(1),
    "wrapped": lambda own: functools.wraps(own.work)(lambda *a, **k: own.work(*a, **k))(1, b=2),
    "exception handled": lambda own: _handled(own),
    "exception with finally": lambda own: _finally(own),
    "generator closed": lambda own: _closed(own),
    "generator that delegates": lambda own: list(_delegates(own)),
    "queue": lambda own: _queued(own, queue.Queue()),
    "simple queue": lambda own: _queued(own, queue.SimpleQueue()),
    "context manager": lambda own: _entered(own),
    "exit stack": lambda own: _stacked(own),
    "coroutine": lambda own: asyncio.run(_awaits(own)),
    "asynchronous generator": lambda own: asyncio.run(_draws(own)),
    "deep": lambda own: _deep(own, 50),
}


def _handled(own: Own) -> None:
    try:
        raise KeyError(own)
    except KeyError:
        own.work()


def _finally(own: Own) -> None:
    with contextlib.suppress(KeyError):
        try:
            raise KeyError
        finally:
            own.work()


def _closed(own: Own) -> None:
    def generator() -> Any:
        try:
            yield
        finally:
            own.work()

    made = generator()
    next(made)
    made.close()


def _delegates(own: Own) -> Any:
    yield from (own.work() for _ in [1])


def _queued(own: Own, made: Any) -> None:
    made.put(own)
    del own
    made.get().work()


def _entered(own: Own) -> None:
    @contextlib.contextmanager
    def manager() -> Any:
        own.work()
        yield

    with manager():
        pass


def _stacked(own: Own) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(own.work, 1, a=2)


async def _awaits(own: Own) -> None:
    await asyncio.sleep(0)
    own.work()


async def _draws(own: Own) -> list[int]:
    async def generator() -> Any:
        yield own.work()

    return [x async for x in generator()]


def _deep(own: Own, calls: int) -> None:
    if calls:
        _deep(own, calls - 1)
    else:
        own.work()


def _worker(**methods: Any) -> Any:
    """A class whose methods work before they answer."""
    made = {
        name: (lambda answer: lambda self, *_, **__: (self.own.work(), answer)[1])(answer)
        for name, answer in methods.items()
    }
    return type("Worker", (), made)


SPECIAL = [
    ("__getitem__", 1, lambda thing: thing[1]),
    ("__setitem__", None, lambda thing: _sets(thing)),
    ("__delitem__", None, lambda thing: _deletes(thing)),
    ("__contains__", True, lambda thing: 1 in thing),
    ("__len__", 1, lambda thing: len(thing)),
    ("__bool__", True, lambda thing: 1 if thing else 2),
    ("__hash__", 7, lambda thing: hash(thing)),
    ("__hash__", 7, lambda thing: {}.get(thing)),
    ("__eq__", True, lambda thing: thing == 1),
    ("__eq__", True, lambda thing: thing in [1]),
    ("__eq__", True, lambda thing: [1].index(thing)),
    ("__lt__", True, lambda thing: thing < 1),
    ("__add__", 1, lambda thing: thing + 1),
    ("__radd__", 1, lambda thing: 1 + thing),
    ("__iadd__", 1, lambda thing: operator.iadd(thing, 1)),
    ("__matmul__", 1, lambda thing: thing @ 1),
    ("__neg__", 1, lambda thing: -thing),
    ("__index__", 0, lambda thing: [1][thing]),
    ("__next__", 1, lambda thing: next(thing)),
    ("__iter__", iter(()), lambda thing: [x for x in thing]),  # noqa: C416
    ("__getattr__", 1, lambda thing: thing.zzz),
    ("__getattr__", 1, lambda thing: getattr(thing, "zzz", None)),
    ("__call__", 1, lambda thing: thing()),
    ("__call__", 1, lambda thing: thing(1, 2)),
    ("__call__", 1, lambda thing: thing(a=1)),
    ("__call__", 1, lambda thing: thing(*[1], **{"b": 2})),
    ("__call__", 1, lambda thing: list(map(thing, [1]))),
    ("__call__", 1, lambda thing: sorted([1], key=thing)),
    ("__enter__", 1, lambda thing: _enters(thing)),
    ("__repr__", "x", lambda thing: repr(thing)),
    ("__copy__", 1, lambda thing: copy.copy(thing)),
    ("__deepcopy__", 1, lambda thing: copy.deepcopy(thing)),
    ("read", "1", lambda thing: json.load(thing)),
]


def _sets(thing: Any) -> None:
    thing[1] = 2


def _deletes(thing: Any) -> None:
    del thing[1]


def _enters(thing: Any) -> None:
    type(thing).__exit__ = lambda *_: None
    with thing:
        pass


class Raw(io.RawIOBase):
    own: Own

    def readable(self) -> bool:
        return True

    writable = readable

    def readinto(self, _: Any) -> int:
        return self.own.work() * 0

    def write(self, data: Any) -> int:
        self.own.work()
        return len(data)


class Tags(html.parser.HTMLParser):
    own: Own

    def handle_starttag(self, *_: Any) -> None:
        self.own.work()


class Elements(xml.sax.ContentHandler):
    own: Own

    def startElement(self, *_: Any) -> None:
        self.own.work()

    start = startElement

    def close(self) -> None:
        pass


class Attributes:
    __match_args__ = ("value",)
    own: Own

    @property
    def value(self) -> int:
        return self.own.work()

    @value.setter
    def value(self, _: int) -> None:
        self.own.work()

    @functools.cached_property
    def later(self) -> int:
        return self.own.work()

    def __exit__(self, *_: Any) -> bool:
        self.own.work()
        return True

    def __enter__(self) -> None:
        pass

    def close(self) -> None:
        self.own.work()


class Last(Attributes):
    def __del__(self) -> None:
        self.own.work()


def _writes(file: io.BufferedWriter) -> None:
    file.write(bytes(100_000))
    file.flush()


def _matches(thing: Attributes) -> None:
    match thing:
        case Attributes(1):
            pass


def _raises(thing: Attributes) -> None:
    with thing:
        raise KeyError(thing)


def _assigns(thing: Attributes) -> None:
    thing.value = 1


def _closes(thing: Attributes) -> None:
    with contextlib.closing(thing):
        pass


def _parses(thing: Elements) -> None:
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = thing.startElement
    parser.Parse("<a/>", True)


THINGS = {
    "property": (Attributes, lambda thing: thing.value),
    "property set": (Attributes, _assigns),
    # Up to 3.11 all objects of a class share the lock of a cached property.
    **({"cached property": (Attributes, lambda thing: thing.later)} if sys.version_info >= (3, 12) else {}),
    "match": (Attributes, _matches),
    "exit with an exception": (Attributes, _raises),
    "closing": (Attributes, _closes),
    "finalizer": (Last, lambda thing: None),
    "buffered reader": (Raw, lambda thing: io.BufferedReader(thing).read(10)),
    "text": (Raw, lambda thing: io.TextIOWrapper(io.BufferedReader(thing)).readline()),
    "buffered writer": (Raw, lambda thing: _writes(io.BufferedWriter(thing))),
    "HTML": (Tags, lambda thing: thing.feed("<a>")),
    "SAX": (Elements, lambda thing: xml.sax.parseString("<a/>", thing)),
    "XML": (Elements, lambda thing: xml.etree.ElementTree.XMLParser(target=thing).feed("<a/>")),
    "expat": (Elements, _parses),
}


class Maker:
    def __init__(self, own: Own, number: int = 0) -> None:
        own.work()


class Former:
    def __new__(cls, own: Own, number: int = 0) -> Former:
        own.work()
        return object.__new__(cls)


@dataclasses.dataclass
class Record:
    own: Own

    def __post_init__(self) -> None:
        self.own.work()


MADE = {
    "init": lambda own: Maker(own, 1),
    "init by name": lambda own: Maker(own=own),
    "new": lambda own: Former(own, 1),
    "new by name": lambda own: Former(own=own),
    "dataclass": lambda own: Record(own),
    "dataclass by name": lambda own: Record(own=own),
}


def _has(make: Any, use: Callable[[Any], Any], own: Own) -> None:
    thing = [make()]
    object.__setattr__(thing[0], "own", own)
    del own
    use(thing.pop())


WAYS: dict[str, Callable[[Own], Any]] = {
    **CALLS,
    **MADE,
    **{
        f"{name} {i}": functools.partial(_has, _worker(**{name: answer}), use)
        for i, (name, answer, use) in enumerate(SPECIAL)
    },
    **{name: functools.partial(_has, make, use) for name, (make, use) in THINGS.items()},
}


@pytest.mark.parametrize("known", [False, True], ids=["its own", "shared"])
@pytest.mark.parametrize("way", WAYS)
def test_an_object_that_is_used(stage: Stage, way: str, known: bool) -> None:
    gate = stage.gate()

    def body() -> None:
        given = [Own(gate)]
        if known:
            shared.extend(given)
        with contextlib.suppress(Exception):  # of what the answer is no good for
            WAYS[way](given.pop())

    found = [h for h in hazards(stage.at(gate, body)) if h.kind == "held-lock"]
    shared.clear()
    assert [h.what.rpartition(" ")[2] for h in found] == ([f"{__name__}.Own"] if known else []), (
        sys.version_info
    )
