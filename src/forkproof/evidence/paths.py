"""A path of the catalogue, from the variables of a frame to objects: `self.queue`, `work_queue[].future`.

A name after a dot is an attribute, or what a function encloses under that name; of a weak reference it is one of what that refers
to. `[]` is each thing in a list, a set or a queue, each value of a dict.

Guarantee: reads only. No property and no `__getattr__` of the program's runs, no lock is taken, nothing leaves a queue.
"""

from __future__ import annotations

import gc
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def root(path: str) -> str:
    """The variable that a path begins with."""
    return path.partition(".")[0].removesuffix("[]")


def follow(path: str, variables: Mapping[str, object]) -> list[object]:
    """All that the path leads to; nothing where it breaks off."""
    first, *steps = path.replace("[]", ".[]").split(".")
    found = [variables[first]] if variables.get(first) is not None else []
    for step in steps:
        found = [
            inner for thing in found for inner in (items(thing) if step == "[]" else _inside(thing, step))
        ]
    return found


def _inside(thing: Any, name: str) -> list[object]:
    if type(thing) is type(root):
        enclosed = dict(zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False))
        cell = enclosed.get(name)
        return list(gc.get_referents(cell)) if cell is not None else []
    if type(thing) is weakref.ref:
        thing = thing()
    attributes = getattr(thing, "__dict__", {})
    if name in attributes:
        return [attributes[name]]
    for kind in type(thing).__mro__:
        slot: Any = kind.__dict__.get(name)
        if type(slot).__name__ == "member_descriptor":
            try:
                return [slot.__get__(thing)]
            except AttributeError:  # an empty one
                return []
    return []


def items(thing: Any) -> list[object]:
    """What a container has in it; nothing for what is none that is known."""
    if isinstance(thing, dict):
        return list(dict.values(thing))
    if type(thing) in (list, tuple, set, frozenset) or type(thing).__name__ == "deque":
        return list(thing)
    if type(thing).__module__ not in ("queue", "_queue"):
        return []
    if type(thing).__name__ != "SimpleQueue":
        return list(getattr(thing, "queue", ()))
    found: list[object] = []  # in C: a list inside up to 3.12, the items themselves from 3.13 on
    for item in gc.get_referents(thing):
        if type(item) is list:
            found.extend(item)
        elif not isinstance(item, type):
            found.append(item)
    return found
