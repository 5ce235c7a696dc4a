"""By what name a program keeps a lock, where no frame shows the words by which it was taken.

The collector knows who refers to an object: a module's globals, or an object's attributes. To ask it means to go through every
object of the process (milliseconds), so it is asked once for each lock, and only for one that is a hazard.
"""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_known: dict[int, tuple[weakref.ref[Any], tuple[str, str, type | None] | None]] = {}


def keeper(lock: object) -> tuple[str, str, type | None] | None:
    """Attribute, owner and the owner's class of the first place where `lock` is kept: ("_lock", "app.Session", Session) or, for
    a global, ("LOCK", "app", None). None where it is kept in none (a container, a variable of a function, compiled code)."""
    known = _known.get(id(lock))
    if known is not None and known[0]() is lock:
        return known[1]
    for key in [key for key, (reference, _) in _known.items() if reference() is None]:
        del _known[key]
    found = _find(lock)
    _known[id(lock)] = (weakref.ref(lock), found)
    return found


def _find(lock: object) -> tuple[str, str, type | None] | None:
    for referrer in gc.get_referrers(lock):
        if type(referrer) is not dict:
            if attribute := _name_in(attributes_of(referrer), lock):
                return _owned(attribute, referrer)
            continue
        name = _name_in(referrer, lock)
        if name is None:
            continue
        module = referrer.get("__name__")
        if isinstance(module, str) and getattr(sys.modules.get(module), "__dict__", None) is referrer:
            return name, module, None
        for owner in gc.get_referrers(referrer):
            if attributes_of(owner) is referrer or (
                isinstance(owner, type) and _of_class(owner, name) is lock
            ):
                return _owned(name, owner)
    return None


def _owned(attribute: str, owner: object) -> tuple[str, str, type | None]:
    kind = owner if isinstance(owner, type) else type(owner)
    module = type.__getattribute__(kind, "__module__")
    return attribute, f"{module}.{type.__getattribute__(kind, '__qualname__')}", kind


def _of_class(kind: type, name: str) -> object:
    return type.__getattribute__(kind, "__dict__").get(name)


def attributes_of(item: object) -> dict[str, Any] | None:
    """The instance's own; no property or __getattr__ of the program's runs."""
    if isinstance(item, (ModuleType, type)):
        return None
    try:
        found = object.__getattribute__(item, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def _name_in(names: dict[str, Any] | None, lock: object) -> str | None:
    for name, value in list(names.items()) if names else ():
        if value is lock and isinstance(name, str):
            return name
    return None
