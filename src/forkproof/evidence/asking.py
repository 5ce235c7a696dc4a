"""What a thread asks for that stands in a function of the catalogue: `Future.result` of a future, `Queue.join` of a queue.

The functions are known by their code, read outward from the innermost frame for as long as the catalogue knows them: the
outermost says what it is that the thread waits for (`Event.wait`, called by `ApplyResult.wait`, is for a result).
"""

from __future__ import annotations

from ..catalogue import resolve
from .paths import follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

    from .._native import Waiting
    from ..catalogue import Wait

    Table = dict[str, list[tuple[str, Wait]]]


def table(waits: list[Wait]) -> Table:
    """The catalogue by qualified name, each with the end of the file's name; under "" those that are methods in C alone."""
    found: Table = {"": [("", wait) for wait in waits if not wait.run]}
    for wait in waits:
        for name in wait.run:
            module, _, qualified = name.partition(":")
            found.setdefault(qualified, []).append((f"/{module.replace('.', '/')}.py", wait))
    return found


def polls(known: Table) -> set[str]:
    """The functions in C in which they look again and again, dotted."""
    return {name for entries in known.values() for _, wait in entries for name in wait.polls}


def _entries(stack: list[tuple[CodeType, int]], known: Table) -> Iterator[tuple[Wait, CodeType]]:
    for code, _ in stack:
        names = known.get(code.co_qualname, ())
        entry = next((wait for end, wait in names if code.co_filename.endswith(end)), None)
        if entry is None:
            return
        yield entry, code


def outermost(stack: list[tuple[CodeType, int]], known: Table) -> Wait | None:
    """The function that says what the thread waits for."""
    entries = [entry for entry, _ in _entries(stack, known)]
    return entries[-1] if entries else None


def polled(thing: object, known: Table) -> Wait | None:
    """What a thread waits for that is in a method in C of `thing`, which the catalogue knows by itself."""
    for _, wait in known.get("", ()):
        classes = (resolve(name.rpartition(".")[0]) for name in wait.polls)
        if any(isinstance(kind, type) and kind in type(thing).__mro__ for kind in classes):
            return wait
    return None


def asked(wait: Waiting, known: Table) -> list[list[object]]:
    """What has to be done before the thread goes on, any one of it: each as the object itself and those that answer for it."""
    from .. import _native

    for entry, code in reversed(list(_entries(wait[5][14], known))):
        variables = _native.variables_of(wait[0], code) if entry.things else None
        found = [thing for path in entry.things for thing in follow(path, variables or {})]
        if found:
            return [[thing, *_answering(thing, entry)] for thing in found]
    return []


def called_on(wait: Waiting, known: Table) -> list[object]:
    """The objects whose methods it is in: the Event around a condition."""
    from .. import _native

    variables = [_native.variables_of(wait[0], code) for _, code in _entries(wait[5][14], known)]
    return [found["self"] for found in variables if found is not None and "self" in found]


def _answering(thing: object, entry: Wait) -> list[object]:
    return [other for path in entry.by for other in follow(f"thing.{path}", {"thing": thing})]
