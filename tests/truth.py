"""Random programs, and whether what is said of their threads is the truth.

Each thread of a program has locks of its own, so the truth can be asked of the locks themselves, in one step in which no
thread can move (a `map` over C functions, which lets the GIL go nowhere): the watcher tries to take every lock. What it does
not get the thread has; what it gets it holds while it looks, so that a claim that the thread has it is a false one, however
that claim came about.

A program is watched in one of five ways:

* `stepping`: stopped before every bytecode by a trace function, on its own. A lock that is had at one stop and was
  not at the one before must have been announced there as being acquired; and what was announced must come.
* `lines`: the same at each line and at the beginning of each function, where a fork that waits stops threads on CPython 3.11;
* `running`: several threads run on and are interrupted where the interpreter interrupts threads.
* `blocking`: the same, and the watcher has one of the locks: the thread that comes to it must be seen to wait for it, and to
  hold or still be acquiring it at the very moment when it is let go;
* `forking`: forks, and the child tries every lock.
"""

from __future__ import annotations

import contextlib
import dis
import json
import linecache
import operator
import os
import random
import select
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import CodeType, FrameType
from typing import Any

import ways
from hypothesis import strategies as st
from looking import LIMIT

import forkproof
from forkproof import _native

LOCKS = "abrcdst"
"""a, b: Lock; r: RLock; c: a Condition over a Lock; d: over an RLock; s: a Semaphore; t: a BoundedSemaphore."""
PERMITS = 3
REACHES = ["", "self.", "self.kept.", "G."]


def make_locks() -> dict[str, Any]:
    return {
        "a": threading.Lock(),
        "b": threading.Lock(),
        "r": threading.RLock(),
        "c": threading.Condition(threading.Lock()),
        "d": threading.Condition(),
        "s": threading.Semaphore(PERMITS),
        "t": threading.BoundedSemaphore(PERMITS),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Writing a program


@dataclass(frozen=True)
class Place:
    """What may be written here. `free`: locks that the thread does not have here."""

    free: str = LOCKS
    depth: int = 0
    raises: bool = False  # a Boom is caught further out, and nothing but with and finally lies between
    returns: bool = False
    loops: bool = False
    colour: str = "def"  # or async
    names: bool = True  # false in a class body, whose names functions further in do not see

    def without(self, *locks: str, **changes: Any) -> Place:
        return replace(
            self, free="".join(k for k in self.free if k not in locks), depth=self.depth + 1, **changes
        )

    def straight(self, *locks: str) -> Place:
        """Where no way leads out but the end."""
        return self.without(*locks, raises=False, returns=False, loops=False)


@dataclass
class Writer:
    """Draws a program, line by line. Everything is one `choose`, so that it shrinks to the first of each list."""

    choose: Callable[[list[Any]], Any]
    deepest: int
    lines: list[tuple[int, str]] = field(default_factory=list)
    indent: int = 1
    numbers: Iterator[int] = field(default_factory=count)
    reach: str = ""

    def text(self) -> str:
        return "\n".join("    " * indent + line for indent, line in self.lines)

    def line(self, text: str) -> None:
        self.lines.append((self.indent, text))

    @contextlib.contextmanager
    def inside(self, head: str) -> Iterator[None]:
        self.line(head)
        self.indent += 1
        yield
        self.indent -= 1

    def name(self, stem: str) -> str:
        return f"{stem}{next(self.numbers)}"

    def lock(self, place: Place, among: str = LOCKS) -> str:
        able = [k for k in place.free if k in among]
        return self.choose(able) if able else ""

    def at(self, lock: str) -> str:
        return self.reach + lock

    def block(self, place: Place) -> None:
        for _ in range(self.choose([1, 1, 2, 3] if place.depth < self.deepest else [1])):
            self.statement(place)

    def statement(self, place: Place) -> None:
        makers = self.SIMPLE if place.depth >= self.deepest else self.SIMPLE + self.NESTED
        before = len(self.lines)
        self.choose(makers)(self, place)
        if len(self.lines) == before:
            self.line("nop()")

    # -- simple ones

    def calls(self, place: Place) -> None:
        self.line(self.choose(["nop()", "len('x')", "sleep(0)", "pass", "x = [nop(i) for i in (1, 2)]"]))

    def turns(self, place: Place) -> None:
        self.line("await turn()" if place.colour == "async" else "nop(4)")

    def leaves(self, place: Place) -> None:
        able = (
            ["raise Boom"] * place.raises
            + ["return 1", "return n + 1"] * place.returns
            + ["break", "continue"] * place.loops
        )
        if able:
            with self.inside(self.choose(["if n % 2:", "if not n % 2:"])):
                self.line(self.choose(able))

    def waits(self, place: Place) -> None:
        k = self.lock(place, "cd")
        if k:
            with self.inside(f"with {self.at(k)}:"):
                how = self.choose(
                    [
                        "wait(0.0002)",
                        "wait_for(nop, 0.0002)",
                        "notify_all()",
                        "wait(0)",
                        "wait(timeout=0.0001)",
                    ]
                )
                self.line(f"{self.at(k)}.{how}")

    def uses_lazy(self, place: Place) -> None:
        k = self.lock(place, "abrcd")
        if k:
            lock = self.at(k)
            self.line(
                self.choose(
                    [
                        f"x = Lazy({lock})",
                        f"x = Lazy({lock}, nop).value",
                        f"x = Lazy({lock}, nop) + 1",
                        f"x = Lazy({lock}, nop).other",
                        f"for x in Lazy({lock}, nop): nop(x)",
                        f"x = Lazy({lock}, nop)()",
                        f"x = [nop(i) for i in counting({lock})]",
                        f"x = list(counting({lock}))",
                        f"x = list(map(nop, trying({lock})))",
                        f"x = sum(nop(i) for i in counting({lock}))",
                        f"x = {{i: nop(i) for i in trying({lock}) if nop(i)}}",
                    ]
                )
            )

    # -- with

    def with_one(self, place: Place) -> None:
        k = self.lock(place)
        if k:
            with self.inside(f"with {self.at(k)}:"):
                self.block(place.without(k))

    def with_two(self, place: Place) -> None:
        k = self.lock(place)
        m = self.lock(place.without(k)) if k else ""
        if m:
            with self.inside(f"with {self.at(k)} as x, {self.at(m)}:"):
                self.block(place.without(k, m))

    def with_manager(self, place: Place) -> None:
        k = self.lock(place)
        if k:
            maker = self.choose(ways.CLASSES + ways.GENERATORS)
            with self.inside(f"with {maker}({self.at(k)}):"):
                self.block(place.without(k))

    def with_stack(self, place: Place) -> None:
        k = self.lock(place)
        if not k:
            return
        lock = self.at(k)
        with self.inside("with ExitStack() as stack:"):
            how = self.choose(["enter", "callback", "manager", "function"])
            if how == "enter":
                self.line(f"stack.enter_context({lock})")
            elif how == "callback":
                self.line(f"{lock}.acquire()")
                self.line(f"stack.callback({lock}.release)")
            elif how == "manager":
                self.line(f"stack.enter_context({self.choose(ways.CLASSES + ways.GENERATORS)}({lock}))")
            else:
                with self.inside(f"if stack.enter_context({lock}) or True:"):
                    self.line("nop(5)")
            self.block(place.without(k))

    def suppresses(self, place: Place) -> None:
        with self.inside("with suppress(Boom):"):
            self.block(place.without(raises=True))

    # -- acquire and release

    def try_finally(self, place: Place) -> None:
        k = self.lock(place)
        if k:
            lock = self.at(k)
            self.line(f"{lock}.{self.choose(['acquire()', 'acquire()', '__enter__()'])}")
            with self.inside("try:"):
                self.block(place.without(k))
            with self.inside("finally:"):
                self.line(f"{lock}.release()")

    def try_late(self, place: Place) -> None:
        """The acquire() is inside the try."""
        k = self.lock(place)
        if k:
            lock = self.at(k)
            with self.inside("try:"):
                self.line(f"{lock}.acquire()")
                self.block(place.without(k))
            with self.inside("finally:"):
                self.line("nop(6)")
                self.line(f"{lock}.release()")

    def straight(self, place: Place) -> None:
        k = self.lock(place)
        if k:
            self.line(f"{self.at(k)}.acquire()")
            self.block(place.straight(k))
            self.line(f"{self.at(k)}.release()")

    def attempts(self, place: Place) -> None:
        k = self.lock(place)
        if not k:
            return
        lock = self.at(k)
        limits = ["(False)", "(timeout=9)", "(blocking=False)"]
        how = self.choose(["if", "named", "unless"])
        if how == "if":
            with self.inside(f"if {lock}.acquire{self.choose(limits)}:"):
                with self.inside("try:"):
                    self.block(place.without(k))
                with self.inside("finally:"):
                    self.line(f"{lock}.release()")
        elif how == "named":
            got = self.name("got")
            self.line(f"{got} = {lock}.acquire{self.choose(limits)}")
            with self.inside("try:"):
                self.block(place.without(k))
            with self.inside("finally:"):
                with self.inside(f"if {got}:"):
                    self.line(f"{lock}.release()")
        else:
            with self.inside(f"while not {lock}.acquire{self.choose(limits)}:"):
                self.line("sleep(0)")
            with self.inside("try:"):
                self.block(place.without(k, loops=False))
            with self.inside("finally:"):
                self.line(f"{lock}.release()")

    def aliases(self, place: Place) -> None:
        k = self.lock(place, "abrcd")
        if k and place.names:
            take, give = self.name("take"), self.name("give")
            self.line(f"{take}, {give} = {self.at(k)}.acquire, {self.at(k)}.release")
            self.line(f"{take}()")
            with self.inside("try:"):
                self.block(place.without(k))
            with self.inside("finally:"):
                self.line(f"{give}()")

    # -- control flow

    def catches(self, place: Place) -> None:
        with self.inside("try:"):
            self.block(place.without(raises=True))
        with self.inside(self.choose(["except Boom:", "except (KeyError, Boom) as error:"])):
            self.block(place.without())
        if self.choose([0, 1]):
            with self.inside("finally:"):
                self.block(place.straight())

    def finishes(self, place: Place) -> None:
        with self.inside("try:"):
            self.block(place.without())
        with self.inside("finally:"):
            self.block(place.straight())

    def loops(self, place: Place) -> None:
        number = self.name("i")
        with self.inside(self.choose([f"for {number} in (1, 2):", f"for {number} in range(2):"])):
            self.block(place.without(loops=True))
        if self.choose([0, 0, 1]):
            with self.inside("else:"):
                self.block(place.without())

    def loops_while(self, place: Place) -> None:
        with self.inside("while True:"):
            self.block(place.without(loops=False))
            self.line("break")

    def branches(self, place: Place) -> None:
        with self.inside("if n % 2:"):
            self.block(place.without())
        if self.choose([0, 1]):
            with self.inside("else:"):
                self.block(place.without())

    def matches(self, place: Place) -> None:
        with self.inside("match n % 3:"):
            with self.inside("case 1:"):
                self.block(place.without())
            with self.inside("case int(m) if nop(m) > 1:"):
                self.block(place.without())
            with self.inside("case _:"):
                self.block(place.without())

    # -- functions and generators

    def function(self, place: Place) -> None:
        if not place.names:
            return
        f = self.name("f")
        with self.inside(f"def {f}(n=n):"):
            self.block(place.without(returns=True, loops=False, colour="def"))
        self.line(
            self.choose(
                [
                    f"{f}()",
                    f"x = {f}(n + 1)",
                    f"x = list(map({f}, [n]))",
                    f"x = [{f}() for i in (1, 2)]",
                    f"x = sorted([2], key={f})",
                    f"{f}(*[n])",
                    f"{f}(n=n)",
                ]  # fmt: skip
            )
        )

    def synchronizes(self, place: Place) -> None:
        k = self.lock(place)
        if k and place.names:
            f = self.name("f")
            self.line(f"@synchronized({self.at(k)})")
            with self.inside(f"def {f}():"):
                self.block(place.without(k, returns=True, loops=False, colour="def"))
            self.line(f"x = {f}()")

    def recurses(self, place: Place) -> None:
        k = self.lock(place, "rd")
        if k and place.names:
            f = self.name("f")
            with self.inside(f"def {f}(m, n=n):"):
                with self.inside(f"with {self.at(k)}:"):
                    with self.inside("if m:"):
                        self.line(f"return {f}(m - 1)")
                    self.block(place.without(k, returns=True, loops=False, colour="def"))
            self.line(f"{f}(2)")

    def in_lazy(self, place: Place) -> None:
        k = self.lock(place, "abrcd")
        if k and place.names:
            f = self.name("f")
            with self.inside(f"def {f}(n=n):"):
                self.block(place.without(k, returns=True, loops=False, colour="def"))
            lazy = f"Lazy({self.at(k)}, {f})"
            self.line(
                self.choose(
                    [f"x = {lazy}.value", f"x = {lazy} + 1", f"x = list({lazy})", f"x = {lazy}.other"]
                )
            )

    def class_body(self, place: Place) -> None:
        k = self.lock(place)
        if k and place.names:
            with self.inside(f"class {self.name('C')}:"):
                self.line(f"lock = {self.at(k)}")
                with self.inside("with lock:"):
                    self.block(
                        place.without(k, returns=False, loops=False, raises=False, colour="def", names=False)
                    )

    def generator(self, place: Place) -> None:
        """One of the program's own, that a `for` goes through."""
        k = self.lock(place)
        if not k or not place.names:
            return
        g = self.name("g")
        inner = place.without(k, returns=True, loops=False, raises=False, colour="def")
        with self.inside(f"def {g}(n=n):"):
            if self.choose([0, 1]):
                self.statement(inner)
            how = self.choose(["with", "try", "from"])
            if how == "with":
                with self.inside(f"with {self.at(k)}:"):
                    self.line("yield 1")
                    if self.choose([0, 1]):
                        self.statement(inner)
                        self.line("yield 2")
            elif how == "try":
                self.line(f"{self.at(k)}.acquire()")
                with self.inside("try:"):
                    self.line("yield 1")
                    self.statement(inner)
                with self.inside("finally:"):
                    self.line(f"{self.at(k)}.release()")
            else:
                self.line(f"yield from {self.choose(ways.ITERATORS)}({self.at(k)})")
            self.line("yield 3")
        self.iterates(place, k, f"{g}()")

    def iterator(self, place: Place) -> None:
        k = self.lock(place)
        if k:
            self.iterates(place, k, f"{self.choose(ways.ITERATORS)}({self.at(k)})")

    def iterates(self, place: Place, k: str, what: str) -> None:
        variable = self.name("i")
        how = self.choose(["for", "enumerate", "next", "zip", "unpack"])
        # A `break` or an exception leaves it to be finished when it is freed, at once: nothing else refers to it.
        if how in ("for", "enumerate", "zip"):
            text = {"for": what, "enumerate": f"enumerate({what})", "zip": f"zip({what}, (1, 2, 3))"}[how]
            with self.inside(f"for {variable} in {text}:"):
                self.block(place.without(k, loops=how == "for", raises=False, returns=False))
        elif how == "next" and place.names:
            self.line(f"{variable} = {what}")
            self.line(f"x = next({variable}, None)")
            self.block(place.straight(k))
            self.line(f"{variable}.close()")
        else:
            self.line(f"x = tuple({what})")

    def coroutine(self, place: Place) -> None:
        if not place.names:
            return
        co = self.name("co")
        with self.inside(f"async def {co}(n=n):"):
            self.block(place.without(returns=True, loops=False, colour="async"))
        self.line(f"await {co}()" if place.colour == "async" else f"drive({co}())")

    def async_with(self, place: Place) -> None:
        k = self.lock(place)
        if k and place.colour == "async":
            maker = self.choose(["AsyncGuard", "slowly"])
            with self.inside(f"async with {maker}({self.at(k)}):"):
                self.block(place.without(k))

    def async_for(self, place: Place) -> None:
        k = self.lock(place)
        if k and place.colour == "async":
            with self.inside(f"async for {self.name('i')} in ticking({self.at(k)}):"):
                self.block(place.without(k, loops=False, returns=False, raises=False))

    SIMPLE = [calls, turns, leaves, waits, uses_lazy]
    NESTED = [
        with_one, with_one, with_one, with_two, with_manager, with_manager, with_stack, suppresses, try_finally,
        try_finally, try_late, straight, attempts, aliases, catches, catches, finishes, loops, loops_while, branches,
        matches, function, function, synchronizes, recurses, in_lazy, class_body, generator, generator, iterator,
        coroutine, coroutine, async_with, async_with, async_for,
    ]  # fmt: skip


def write(choose: Callable[[list[Any]], Any], deepest: int = 4) -> str:
    writer = Writer(choose, deepest)
    writer.reach = choose(REACHES)
    writer.block(Place(returns=True))
    kept = "G = self.kept" if writer.reach == "G." else "pass"
    if writer.reach == "":
        kept = "; ".join(f"{k} = self.{k}" for k in LOCKS)
    return f"def body(self, n):\n    {kept}\n{writer.text()}\n"


@st.composite
def programs(draw: st.DrawFn, deepest: int = 4) -> str:
    return write(lambda able: draw(st.sampled_from(able)), deepest)


def random_program(seed: int, deepest: int = 4) -> str:
    return write(random.Random(seed).choice, deepest)


# ----------------------------------------------------------------------------------------------------------------------
# Watching it

_numbers = count()


class Instance:
    """A thread's program with the locks that only this thread uses."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.locks = make_locks()
        self.__dict__.update(self.locks)
        self.kept: Any = type("Kept", (), {})()
        self.kept.__dict__.update(self.locks)
        self.file = f"<program {next(_numbers)}>"
        linecache.cache[self.file] = (len(source), None, source.splitlines(True), self.file)
        space: dict[str, Any] = {name: getattr(ways, name) for name in dir(ways) if not name.startswith("__")}
        space |= {
            "sleep": time.sleep,
            "ExitStack": contextlib.ExitStack,
            "suppress": contextlib.suppress,
            "G": self.kept,
        }
        exec(compile(source, self.file, "exec"), space)
        self.body = space["body"]
        locks = self.locks
        self.plain = {
            "a": locks["a"],
            "b": locks["b"],
            "r": locks["r"],
            "c's lock": locks["c"]._lock,
            "d's lock": locks["d"]._lock,
            "s's lock": locks["s"]._cond._lock,
            "t's lock": locks["t"]._cond._lock,
        }
        self.semaphores = {"s": locks["s"], "t": locks["t"]}
        self.thread: threading.Thread | None = None
        self.marker = threading.Lock()

    def play(self, number: int) -> None:
        with self.marker, contextlib.suppress(ways.Boom):  # by its sighting a look tells the stack
            self.body(self, number)


@dataclass
class Seen:
    """Of one thread, at one instant: what it has (a number, for semaphores), and what is said of it."""

    truth: dict[str, int]
    said: dict[str, list[tuple[str, bool, bool]]]  # (state, certain, mutex)
    stack: list[tuple[CodeType, int]]

    def claims(self, lock: str, *states: str) -> list[tuple[str, bool, bool]]:
        return [s for s in self.said[lock] if s[0] in states]


STATE_NAMES = ["holds", "acquiring", "leaving", "inside", "importing"]


def snapshot(instances: list[Instance], before: list[Callable[[], Any]] | None = None) -> list[Seen]:
    """The truth and what is said, of the same instant."""
    tries: list[Callable[[], Any]] = []
    for instance in instances:
        tries += [partial(lock.acquire, False) for lock in instance.plain.values()]
        tries += [partial(getattr, s, "_value") for s in instance.semaphores.values()]
    first = before or []
    answers = list(map(operator.call, [*first, *tries, _native.look]))[len(first) :]
    # From here on others move again.
    sightings = answers.pop()
    result, at = [], 0
    for instance in instances:
        truth = {}
        for name, lock in instance.plain.items():
            truth[name] = int(not answers[at])
            if answers[at]:
                lock.release()
            at += 1
        for name in instance.semaphores:
            truth[name] = PERMITS - answers[at]
            at += 1
        subjects = {id(lock): name for name, lock in (instance.plain | instance.semaphores).items()}
        said: dict[str, list[tuple[str, bool, bool]]] = {name: [] for name in subjects.values()}
        stack: list[tuple[CodeType, int]] = []
        assert instance.thread is not None
        for s in sightings:
            if s[0] == instance.thread.ident:
                stack = s[14]
            subject = subjects.get(id(s[7]))
            if subject is not None:
                mine = s[0] == instance.thread.ident
                state = STATE_NAMES[s[2]] if mine else f"{STATE_NAMES[s[2]]} by another thread"
                said[subject].append((state, bool(s[4]), bool(s[5])))
        result.append(Seen(truth, said, stack))
    return result


def lies(seen: Seen, flux: bool = False) -> Iterator[str]:
    """Where what is said is not the truth. `flux`: between the bytecodes of threading.py a semaphore counts and does not
    yet know it."""
    for name, have in seen.truth.items():
        held = seen.claims(name, "holds", "leaving")
        if any("another" in state for state, _, _ in seen.said[name]):
            yield f"{name} is no other thread's: {seen.said[name]}"
        elif name in "st":
            certain = sum(certain for _, certain, _ in held)
            if not flux and not certain <= have <= len(held):
                yield f"{have} permits of {name} are taken, said: {seen.said[name]}"
        elif have and not held and not any(mutex for _, _, mutex in seen.claims(name, "acquiring")):
            yield f"{name} is held, said: {seen.said[name] or 'nothing'}"
        elif not have and any(certain for _, certain, _ in held):
            yield f"{name} is not held, said: {seen.said[name]}"


class Lie(AssertionError):
    pass


def report(
    instance: Instance, how: str, what: list[str], seen: Seen, frames: list[tuple[CodeType, int]]
) -> Lie:
    lines = [f"{how}: {'; '.join(what)}", f"CPython {sys.version.split()[0]}, at (innermost first):"]
    for code, offset in frames[:12]:
        instruction = next((i for i in dis.get_instructions(code) if i.offset == offset), None)
        line = next((n for start, end, n in code.co_lines() if start <= offset < end), None)
        text = linecache.getline(code.co_filename, line or 0).strip()
        lines.append(
            f"  {code.co_qualname}+{offset} {instruction.opname if instruction else 'cache'} line {line}: {text}"
        )
    lines += [f"truth: {seen.truth}", f"said: { {k: v for k, v in seen.said.items() if v} }"]
    return Lie("\n".join(lines) + "\n" + instance.source)


TRACED = (ways.__file__, threading.__file__, contextlib.__file__)


def begins(frame: FrameType) -> bool:
    """Whether a `call` event is one of a function that begins, or of a generator that goes on after `yield`, as CPython 3.11's
    RESUME says: not after `yield from` or `await`."""
    return frame.f_code.co_code[frame.f_lasti + 1] < 2


class Stepper:
    """Runs a thread, stopped before each bytecode of the program and of what it uses of the library, or at each line."""

    def __init__(self, instance: Instance, number: int, stops: int, lines: bool) -> None:
        self.instance, self.number, self.left, self.lines = instance, number, stops, lines
        self.here, self.on = threading.Lock(), threading.Lock()
        self.here.acquire()
        self.on.acquire()
        self.over = False
        self.rehearsing = True
        self.frame: FrameType | None = None
        self.event = ""
        self.error: BaseException | None = None

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if name != self.instance.file and name not in TRACED:
            return None
        frame.f_trace_opcodes = not self.lines
        frame.f_trace_lines = self.lines
        if self.rehearsing or (self.lines and event != "line" and not (event == "call" and begins(frame))):
            return self.trace
        if self.left <= 0:
            return None
        self.left -= 1
        self.frame, self.event = frame, event
        self.here.release()
        self.on.acquire()
        return self.trace

    def run(self) -> None:
        sys.settrace(self.trace)
        try:
            self.instance.play(self.number)  # from 3.12 on a code object is watched from its next call on
            self.rehearsing = False
            self.instance.play(self.number)
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)
            self.over = True
            self.here.release()


def frames_of(frame: FrameType | None) -> list[tuple[CodeType, int]]:
    found = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return found


def stepping(source: str, number: int, stops: int = 600, lines: bool = False) -> int:
    """-> number of instants."""
    instance = Instance(source)
    stepper = Stepper(instance, number, stops, lines)
    thread = instance.thread = threading.Thread(target=stepper.run, daemon=True)
    thread.start()
    previous: Seen | None = None
    where: list[tuple[CodeType, int]] = []
    failure: Lie | None = None
    instants = 0
    while True:
        assert stepper.here.acquire(timeout=LIMIT), "the program stands still"
        if stepper.over:
            break
        if failure is None:
            (seen,) = snapshot([instance])
            instants += 1
            frame = stepper.frame
            assert frame is not None
            flux = frame.f_code.co_filename == threading.__file__
            wrong = list(lies(seen, flux))
            if wrong:
                failure = report(
                    instance, f"stepping {number}, {stepper.event}", wrong, seen, frames_of(frame)
                )
            elif previous is not None and not lines:
                wrong = list(surprises(previous, seen))
                if wrong:
                    failure = report(
                        instance, f"stepping {number}, one instruction later", wrong, previous, where
                    )
            previous, where = seen, frames_of(frame)
        stepper.on.release()
    thread.join(LIMIT)
    _forget(instance)
    if failure is not None:
        raise failure
    if stepper.error is not None:
        raise AssertionError(f"the program fails:\n{source}") from stepper.error
    return instants


def surprises(before: Seen, after: Seen) -> Iterator[str]:
    for name, have in after.truth.items():
        if name in "st":
            continue
        if have and not before.truth[name] and not before.claims(name, "acquiring"):
            yield f"{name} is taken by this instruction, said: {before.said[name] or 'nothing'}"


class Runner:
    """Plays again and again until it is told to stop."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.stop = False
        self.error: BaseException | None = None
        self.rounds = 0

    def run(self) -> None:
        try:
            while not self.stop:
                self.instance.play(self.rounds)
                self.rounds += 1
        except BaseException as error:
            self.error = error


@contextlib.contextmanager
def started(sources: list[str]) -> Iterator[list[Runner]]:
    runners = [Runner(Instance(source)) for source in sources]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for runner in runners:
            thread = runner.instance.thread = threading.Thread(target=runner.run, daemon=True)
            thread.start()
        yield runners
    finally:
        sys.setswitchinterval(interval)
        for runner in runners:
            runner.stop = True
        for runner in runners:
            assert runner.instance.thread is not None
            runner.instance.thread.join(LIMIT)
            assert not runner.instance.thread.is_alive(), f"does not end:\n{runner.instance.source}"
            _forget(runner.instance)
    for runner in runners:
        if runner.error is not None:
            raise AssertionError(f"the program fails:\n{runner.instance.source}") from runner.error


def _forget(instance: Instance) -> None:
    linecache.cache.pop(instance.file, None)


def check(runners: list[Runner], seen: list[Seen], how: str) -> None:
    for runner, one in zip(runners, seen, strict=True):
        wrong = list(lies(one))
        if wrong:
            raise report(runner.instance, how, wrong, one, one.stack)


def running(sources: list[str], instants: int = 40) -> int:
    with started(sources) as runners:
        instances = [runner.instance for runner in runners]
        for _ in range(instants):
            check(runners, snapshot(instances), "running")
            time.sleep(0)
            if any(runner.error for runner in runners):
                break
    return instants


def blocking(sources: list[str], which: int, instants: int = 3) -> int:
    """The watcher takes a lock of the first thread, and waits until that is seen to wait for it, if it comes to it."""
    done = 0
    if "while not" in sources[0]:
        return 0  # it asks again and again, and never waits
    with started(sources) as runners:
        instances = [runner.instance for runner in runners]
        first = runners[0]
        name, lock = list(first.instance.plain.items())[which % len(first.instance.plain)]
        for _ in range(instants):
            lock.acquire()
            rounds = first.rounds
            try:
                end = time.monotonic() + LIMIT
                while True:
                    (seen,) = snapshot([first.instance])
                    if seen.claims(name, "acquiring"):
                        break
                    if first.rounds > rounds + 2 or first.error:
                        return done  # it does not come to it, or does not insist
                    assert time.monotonic() < end, (
                        f"stands still, and is not said to wait for {name}:\n{sources[0]}"
                    )
                    time.sleep(0.0005)
            finally:
                (seen, *rest) = snapshot(instances, [lock.release])
            done += 1
            check(runners[1:], rest, "blocking")
            wrong = [w for w in lies(seen) if not w.startswith(f"{name} is")]
            if not any(mutex or state != "acquiring" for state, _, mutex in seen.said[name]):
                wrong.append(
                    f"{name} has just been let go of while it was waited for, said: {seen.said[name]}"
                )
            if wrong:
                raise report(first.instance, "blocking", wrong, seen, seen.stack)
    return done


# ----------------------------------------------------------------------------------------------------------------------
# At forks


def _recorded() -> dict[int, list[str]]:
    """In a child: addresses of what the record of its fork says was left at risk -> the certainties."""
    for line in open("/proc/self/maps"):
        if "/memfd:forkproof-record" in line:
            start = int(line.split("-")[0], 16)
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                size = int.from_bytes(memory.read(12)[8:], "little")
                event = json.loads(memory.read(size))
            found: dict[int, list[str]] = {}
            for hazard in event["hazards"]:
                # A worker or a native pool that the child has not got has no address: it is no lock.
                if "address" in hazard and not hazard["cleared"]:
                    found.setdefault(int(hazard["address"], 16), []).append(hazard["certainty"])
            return found
    return {}


def forking(sources: list[str], forks: int = 12) -> tuple[int, int]:
    """Forks at moments that nobody chose; each child tries every lock of every thread: nobody there can give it back.

    The child's own judgement under `observe`: what is held the record names, and what it names as certain is held. Under
    `wait`: nothing is held. -> forks, and those at which something was.
    """
    strict = forkproof.guard._settings.policy == "wait"
    held_at = 0
    with started(sources) as runners:
        for _ in range(forks):
            time.sleep(0)
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(writer, json.dumps(_judge_child(runners, strict)).encode())
                except BaseException:  # whatever it is, the test is told
                    os.write(2, traceback.format_exc().encode())
                finally:
                    os._exit(0)
            os.close(writer)
            with open(reader) as answers:
                assert select.select([reader], [], [], LIMIT)[0], "the child hangs"
                answer = answers.read()
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert answer, f"the child ended with {ended}, and without its answer"
            held, wrong = json.loads(answer)
            held_at += bool(held)
            if wrong:
                texts = "\n".join(runner.instance.source for runner in runners)
                raise Lie(f"at a fork: {'; '.join(wrong)}\n{texts}")
    return forks, held_at


def _judge_child(runners: list[Runner], strict: bool) -> tuple[list[str], list[str]]:
    held, wrong = [], []
    recorded = _recorded()
    for number, runner in enumerate(runners):
        for name, lock in runner.instance.plain.items():
            label, said = f"thread {number}: {name}", recorded.get(id(lock), [])
            taken = not lock.acquire(False)
            if taken:
                held.append(label)
            if taken and (strict or not said):
                wrong.append(f"{label} is held, recorded: {said}")
            if not taken and not strict and "certain" in said:
                wrong.append(f"{label} is free, recorded: {said}")
        for name, semaphore in runner.instance.semaphores.items():
            if semaphore._value == 0 and (strict or id(semaphore) not in recorded):
                wrong.append(f"thread {number}: no permit of {name} is left")
    return held, wrong


def as_program(body: str) -> str:
    """A program from statements, with its locks as local variables."""
    names = "; ".join(f"{k} = self.{k}" for k in LOCKS)
    return f"def body(self, n):\n    {names}\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
