"""Whether one object leads to another: the job in a queue to the event that it would set, by way of arguments, closures and
weak references.

Guarantees: reads only, by what the collector is told of references, so no code of the program's runs; bounded in steps and in
objects, so that it takes milliseconds and comes to nothing that lies far away. What belongs to everybody leads nowhere:
modules, their variables, classes, code.
"""

from __future__ import annotations

import gc
import weakref
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_STEPS = 8
MOST_OBJECTS = 2000

_COMMON = (ModuleType, type, CodeType, FrameType)


def leads_to(things: Iterable[object], wanted: object) -> bool:
    """Whether `wanted` is one of `things`, or can be reached from one."""
    layer = list(things)
    met = {id(thing) for thing in layer}
    for _ in range(MOST_STEPS):
        if any(thing is wanted for thing in layer):
            return True
        beyond = [inner for thing in layer for inner in _inside(thing)]
        layer = []
        for inner in beyond:
            if id(inner) not in met and len(met) < MOST_OBJECTS:
                met.add(id(inner))
                layer.append(inner)
    return any(thing is wanted for thing in layer)


def _inside(thing: object) -> Iterable[object]:
    if isinstance(thing, _COMMON) or (type(thing) is dict and "__spec__" in thing):
        return ()
    if type(thing) is FunctionType:
        return (*(thing.__closure__ or ()), *(thing.__defaults__ or ()), *thing.__dict__.values())
    if isinstance(thing, weakref.ref):  # a job may know only so whom it is done for
        return (weakref.ref.__call__(thing), *gc.get_referents(thing))
    if type(thing) is BuiltinFunctionType:
        return () if isinstance(thing.__self__, ModuleType) else (thing.__self__,)
    return gc.get_referents(thing)
