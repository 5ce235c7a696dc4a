"""Whether a library resets a lock in the child itself, so that holding it at a fork is no hazard.

logging does (`Handler._at_fork_reinit`), OpenTelemetry does, many do: with `os.register_at_fork(after_in_child=...)`. Two
things must be true of one of those callbacks, both read from objects and code without running anything: it can get at
the object whose attribute (or at the module whose global) the lock is, and code that it reaches assigns that name anew, or
names it together with `_at_fork_reinit`. Or the lock is in a container that code of the callback names, itself or by a weak
reference, and code of the callback renews what is in there, or releases what is there: what is locked (PyMongo's
`_release_locks`), or all, for a before-callback has taken them (loguru).
"""

from __future__ import annotations

import functools
import opcode
import threading
import weakref
from types import CellType, CodeType, FunctionType, MethodType, ModuleType

from .keeper import attributes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STORES = {opcode.opmap[name] for name in ("STORE_ATTR", "STORE_GLOBAL") if name in opcode.opmap}
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_LIMIT = 500  # objects looked at for one callback; what reaches more than that is not understood
_DEPTH = 4
_PLAIN = (list, tuple, set, frozenset)
_CONTAINERS = (*_PLAIN, weakref.WeakSet)


def _members(container: object) -> list[object]:
    """A copy in one step of C: other threads change it meanwhile, and an `__iter__` of the program's is not run."""
    if isinstance(container, weakref.WeakSet):
        return [reference() for reference in list(container.data)]  # type: ignore[attr-defined]
    kind: type = next(kind for kind in _PLAIN if isinstance(container, kind))
    return list(kind.__iter__(container))  # type: ignore[attr-defined]


def mends(callbacks: list[Callable[[], object]], lock: object, attribute: str) -> bool:
    """Whether one of `callbacks` renews `lock`, which somebody keeps under the name `attribute`."""
    return any(_reaches(callback, lock, attribute) for callback in callbacks)


def _reaches(callback: object, lock: object, attribute: str) -> bool:
    """The lock may have another name where it is kept than where it was taken (`self.acquire()` takes `self.lock`)."""
    kept_as: set[str] = set()
    codes: list[CodeType] = []
    for item in _reachable(callback):
        if isinstance(item, FunctionType):
            if _releases(item, lock) or (_lists(item, lock) and _renews_each(item)):
                return True
            codes.extend(_codes(item.__code__))
            if item.__globals__.get(attribute) is lock:
                kept_as.add(attribute)
        else:
            kept_as.update(name for name, value in (attributes_of(item) or {}).items() if value is lock)
    return any(_renews(code, name) for name in kept_as for code in codes)


def _lists(function: FunctionType, lock: object) -> bool:
    """`for lock in locks: ...`, where `locks` is a global of the function's."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            container = function.__globals__.get(name)
            if type(container) is dict:
                container = list(container.values())
            if isinstance(container, _CONTAINERS) and any(
                _is(member, lock) for member in _members(container)
            ):
                return True
    return False


def _is(member: object, lock: object) -> bool:
    if isinstance(member, weakref.ref):
        member = member()
    if isinstance(member, threading.Event):
        member = member._cond  # type: ignore[attr-defined]
    return member is lock or (isinstance(member, threading.Condition) and vars(member).get("_lock") is lock)


def _renews_each(function: FunctionType) -> bool:
    """Whether it, or a function that it calls with something by its name, calls `_at_fork_reinit`."""
    codes = [*_codes(function.__code__)]
    called = (function.__globals__.get(name) for code in codes for name in code.co_names)
    functions = [inner.__code__ for inner in called if isinstance(inner, FunctionType)]
    codes += [code for code in functions if code.co_argcount]
    return any("_at_fork_reinit" in code.co_names for code in codes)


def _releases(function: FunctionType, lock: object) -> bool:
    """`for lock in locks: lock.release()`, perhaps only `if lock.locked()`"""
    for code in _codes(function.__code__):
        if "release" in code.co_names and "acquire" not in code.co_names:
            named = [function.__globals__.get(name) for name in code.co_names]
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            named += [_content(cell) for name, cell in cells if name in code.co_freevars]
            if any(
                lock is member for each in named if isinstance(each, _CONTAINERS) for member in _members(each)
            ):
                return True
    return False


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _reachable(root: object) -> Iterator[object]:
    """Functions and objects that a callback can get at: closures, bound objects, weak references, the globals that its
    code names, what containers among them hold, and the methods that its code names on those objects' classes."""
    seen: set[int] = set()
    queue: list[tuple[object, int]] = [(root, 0)]
    named: set[str] = set()
    objects: list[object] = []
    while queue and len(seen) < _LIMIT:
        item, depth = queue.pop()
        if item is None or id(item) in seen or isinstance(item, (ModuleType, type, str, bytes, int, float)):
            continue
        seen.add(id(item))
        if isinstance(item, weakref.ref):
            queue.append((item(), depth))
        elif isinstance(item, functools.partial):
            queue.extend((part, depth) for part in (item.func, *item.args))
        elif isinstance(item, MethodType):
            queue.extend(((item.__self__, depth + 1), (item.__func__, depth)))
        elif isinstance(item, _CONTAINERS):
            queue.extend((part, depth + 1) for part in _members(item)[:_LIMIT])
        elif type(item) is dict:
            queue.extend((part, depth + 1) for part in list(item.values())[:_LIMIT])
        elif isinstance(item, FunctionType):
            yield item
            if depth >= _DEPTH:
                continue
            queue.extend((_content(cell), depth + 1) for cell in item.__closure__ or ())
            for code in _codes(item.__code__):
                named.update(code.co_names)
                queue.extend((item.__globals__.get(name), depth + 1) for name in code.co_names)
            queue.extend((method, depth + 1) for thing in objects for method in _methods(thing, named))
        else:
            objects.append(item)
            yield item
            if depth < _DEPTH:
                queue.extend((method, depth + 1) for method in _methods(item, named))


def _methods(item: object, named: set[str]) -> list[object]:
    return [vars(base)[name] for base in type(item).__mro__ for name in named & vars(base).keys()]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _renews(code: CodeType, attribute: str) -> bool:
    if attribute not in code.co_names:
        return False
    if "_at_fork_reinit" in code.co_names:
        return True
    extended = 0
    raw = code.co_code
    for at in range(0, len(raw), 2):
        argument = extended | raw[at + 1]
        extended = argument << 8 if raw[at] == _EXTENDED else 0
        if raw[at] in _STORES and argument < len(code.co_names) and code.co_names[argument] == attribute:
            return True
    return False
