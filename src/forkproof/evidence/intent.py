"""What a thread of the program's own was to do, by the code that it runs: for the workers that no catalogue knows.

A `threading.Thread` says what it runs: its target, or the `run` of its class. That function, and those that it calls on objects which
can be resolved without running anything (a method of `self` or of an attribute, a function of a module, what a closure encloses),
say by their instructions what the thread would have

woken       `self._idle.set()`, `self._changed.notify_all()`, `results.put(answer)`
taken       `self._jobs.popleft()`, `heappop(self._jobs)`, `jobs, self._jobs = self._jobs, []`: whoever waits for something that a job
            which was left there leads to, waits for the thread

What stands only in an `except` or is done as an exception passes is not counted: it is no part of what the thread was there for.

Guarantees: reads only, as `paths` and `within` do; bounded in threads and functions, each of which is read once; and only in a child, of
a thread that has stood still for long.
"""

from __future__ import annotations

import sys
import threading
import weakref
from functools import partial
from types import FunctionType, MethodType, ModuleType

from .naming import thread_name
from .paths import follow, items
from .within import leads_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType
    from typing import Any

    Chain = tuple[str, ...]  # a variable, and attributes from there

WAKES = frozenset({"set", "notify", "notify_all", "release", "put", "put_nowait"})
TAKES = frozenset({"pop", "popleft", "popitem", "get", "get_nowait", "clear"})
WAITS = frozenset({"wait", "wait_for", "acquire"})
HEAP = "heappop"

MOST_FUNCTIONS = 60
MOST_THREADS = 200

ADVICE = "start the thread in the child, after the fork, or fork before it is relied on"
CHILD = "waits for ever for what that thread was to do"

_instructions: Callable[..., Any] | None = None


def ask(on: bool) -> None:
    """Whether later children are to remember such threads. Imports what they will need."""
    global _instructions
    if on:
        import dis

    _instructions = dis.get_instructions if on else None


class Gone:
    """A thread that this process does not have. Keeps nothing of the program's alive."""

    __slots__ = ("ident", "name", "native_id", "thread")

    def __init__(self, thread: threading.Thread, ident: int) -> None:
        self.thread = weakref.ref(thread)
        self.ident, self.native_id = ident, vars(thread).get("_native_id")
        self.name = thread_name(ident)

    def hazard(self) -> dict[str, Any]:
        """In the form of the hazards of a fork (docs/events.md)."""
        entry = _entry(self.thread())
        runs = f"{entry[0].__module__}.{entry[0].__qualname__}" if entry else "a function"
        return {
            "kind": "vanished-worker",
            "certainty": "possible",
            "cleared": False,
            "what": f"thread that runs {runs}",
            "thread": {"name": self.name, "ident": self.ident, "native_id": self.native_id},
            "stack": [],
            "advice": f"a child that needs it {CHILD}; {ADVICE}",
        }


_gone: list[Gone] = []
_read: dict[CodeType, list[tuple[Chain, bool]]] = {}  # what code says, of a child whose threads stand still


def left_behind() -> bool:
    """Whether this process lacks such threads, as far as it was asked to remember."""
    return bool(_gone)


def remember(threads: Mapping[int, threading.Thread], but: set[int]) -> None:
    """In a child, before `threading` has forgotten them: which threads it does not have. Not those of the idents `but`, its own
    and those that the catalogue knows. Nothing where `ask` has not said so."""
    if _instructions is None:
        return
    _gone[:] = [gone for gone in _gone if gone.thread() is not None]  # of forebears
    for ident, thread in list(threads.items())[:MOST_THREADS]:
        entry = _entry(thread)
        if ident not in but and entry is not None and not _is_of_python(entry[0]):
            _gone.append(Gone(thread, ident))


def left_with(things: list[object], stack: list[tuple[CodeType, int]]) -> tuple[Gone, list[object]] | None:
    """The vanished thread that was to wake one of `things`, for which a thread that stands in `stack` waits, or that was left a job
    which has to do with one; and what others may have of it who do so in its place."""
    for gone in _gone:
        thread = gone.thread()
        intent = _Intent(thread) if thread is not None else None
        if intent is None or any(code in intent.codes for code, _ in stack):
            continue  # who stands there does itself what the thread did
        if any(thing is woken for thing in things for woken in intent.wakes()):
            return gone, intent.objects
        for container in intent.takes:
            if any(leads_to(items(container), thing) for thing in things):
                return gone, [container, *intent.objects]
    return None


def is_known_to(things: list[object], but: int) -> bool:
    """Whether one of `things` is within reach of what a living thread, other than the one of ident `but`, was started with."""
    roots = [
        root
        for ident, thread in list(threading._active.items())  # type: ignore[attr-defined]
        if ident != but
        for root in _roots(thread)
    ]
    return any(leads_to(roots, thing) for thing in things)


def would_wake(function: object, things: list[object]) -> bool:
    """Whether a call of `function`, a signal's handler, does that; also if it cannot be told."""
    if _function(function) is None:
        return True
    wakes = _Intent(function).wakes()
    return any(thing is woken for thing in things for woken in wakes)


def _function(thing: object) -> tuple[FunctionType, tuple[object, ...]] | None:
    """The Python function that a call of `thing` would run, and its first arguments."""
    if isinstance(thing, partial):
        inner = _function(thing.func)
        return None if inner is None else (inner[0], (*inner[1], *thing.args))
    if type(thing) is MethodType and type(thing.__func__) is FunctionType:
        return thing.__func__, (thing.__self__,)
    return (thing, ()) if type(thing) is FunctionType else None


def _entry(thread: threading.Thread | None) -> tuple[FunctionType, tuple[object, ...]] | None:
    """What it runs. A thread that has come to its end has no target any more."""
    run = None if thread is None else type(thread).run
    if thread is None or type(run) is not FunctionType:
        return None
    if run is not threading.Thread.run:
        return run, (thread,)
    attributes = vars(thread)
    found = _function(attributes.get("_target"))
    return None if found is None else (found[0], (*found[1], *attributes.get("_args", ())))


def _roots(thread: threading.Thread) -> list[object]:
    attributes = vars(thread)
    own = type(thread).run is not threading.Thread.run
    return [thread] if own else [attributes.get(name) for name in ("_target", "_args", "_kwargs")]


def _is_of_python(function: FunctionType) -> bool:
    """Whether it belongs to the standard library, whose threads the catalogue knows and whose insides say nothing."""
    return str(function.__module__).partition(".")[0] in sys.stdlib_module_names


class _Intent:
    """What a thread, or a call of a function, would wake and take."""

    def __init__(self, thing: object) -> None:
        self.codes: set[CodeType] = set()
        self.takes: list[object] = []
        self.objects: list[object] = []  # whose methods it runs
        self._wakes: list[object] = []
        self._waits: list[object] = []
        self._calls: list[tuple[FunctionType, tuple[object, ...]]] = []
        first = _entry(thing) if isinstance(thing, threading.Thread) else _function(thing)
        if first is not None:
            self._add(first)
        for function, arguments in self._calls:  # which grows
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
            variables = {name: inner for name, cell in cells if (inner := _content(cell)) is not None}
            variables |= zip(function.__code__.co_varnames, arguments, strict=False)
            self._read(function.__code__, variables, function.__globals__)

    def wakes(self) -> list[object]:
        """Without the events that it waits for itself: it is another that sets those."""
        return [
            thing
            for thing in self._wakes
            if not (isinstance(thing, threading.Event) and any(thing is other for other in self._waits))
        ]

    def _add(self, call: tuple[FunctionType, tuple[object, ...]]) -> None:
        function, arguments = call
        if (
            function.__code__ not in self.codes
            and len(self._calls) < MOST_FUNCTIONS
            and not _is_of_python(function)
        ):
            self.codes.add(function.__code__)
            self._calls.append(call)
            if arguments and not any(arguments[0] is thing for thing in self.objects):
                self.objects.append(arguments[0])

    def _read(self, code: CodeType, variables: dict[str, object], names: dict[str, Any]) -> None:
        def found(chain: Chain) -> list[object]:
            known = variables if chain[0] in variables else names
            return follow(".".join(chain), known)

        from_heap = False
        if code not in _read:
            _read[code] = list(_chains(code))
        for chain, stored in _read[code]:
            *owner, name = chain
            if from_heap:
                self.takes += found(chain)
            from_heap = name == HEAP and not stored
            if not owner:
                self._called(found(chain))
                continue
            things = found(tuple(owner))
            if stored:
                self.takes += found(chain)
            elif name in WAKES | TAKES | WAITS:
                self._wakes += [thing for thing in things if name in WAKES and _can_be_woken(thing, name)]
                self._waits += things if name in WAITS else ()
                self.takes += things if name in TAKES else ()
            for thing in things:
                self._called([_method(thing, name)] if _method(thing, name) else found(chain))
        for constant in code.co_consts:
            if type(constant) is type(code):
                self._read(constant, variables, names)

    def _called(self, callables: list[object]) -> None:
        for thing in callables:
            if (call := _function(thing)) is not None:
                self._add(call)


def _can_be_woken(thing: object, name: str) -> bool:
    """`release` gives a permit of a semaphore; of anything else it only ends what was begun."""
    return name != "release" or isinstance(thing, threading.Semaphore)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


def _method(thing: object, name: str) -> object:
    """What its class has by that name, bound to it; no `__getattr__` or property runs."""
    if isinstance(thing, (ModuleType, type)):
        return None
    for kind in type(thing).__mro__:
        held = kind.__dict__.get(name)
        if type(held) is FunctionType:
            return MethodType(held, thing)
        if held is not None:
            return held.__func__ if isinstance(held, staticmethod) else None
    return None


def _chains(code: CodeType) -> Iterator[tuple[Chain, bool]]:
    """The variables, with the attributes from there, that the code comes by, and whether it stores the last of them. A local that
    is given such a chain stands for it. Handlers of exceptions stand at the end (CPython 3.11 on), and each begins with the same
    instruction."""
    if _instructions is None:
        return
    alias: dict[str, Chain] = {}
    chain: Chain = ()
    for instruction in _instructions(code):
        name, value = instruction.opname, instruction.argval
        if name == "PUSH_EXC_INFO":
            return
        if name in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = (*chain, value)
            continue
        if name in ("CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"):
            continue
        if name == "STORE_ATTR" and chain:
            yield (*chain, value), True
        elif chain:
            yield chain, False
            if name == "STORE_FAST":
                alias[value] = chain
        chain = ()
        if name.startswith(("LOAD_FAST", "STORE_FAST_LOAD", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")):
            for variable in value if isinstance(value, tuple) else (value,):
                chain = alias.get(variable, (variable,))
