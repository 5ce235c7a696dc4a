"""Whether a library resets a lock in the child itself, so that holding it at a fork is no hazard.

logging does (`Handler._at_fork_reinit`), OpenTelemetry does, many do: with `os.register_at_fork(after_in_child=...)`. What
such a callback does is read from its code, not run: it mends `self.attribute` of a class when a method of that class (or a
function of its package) that it reaches assigns the attribute anew, or names both it and `_at_fork_reinit`.
"""

from __future__ import annotations

import functools
import opcode
import sys
import weakref
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_STORES = {opcode.opmap[name] for name in ("STORE_ATTR", "STORE_GLOBAL") if name in opcode.opmap}
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_LIMIT = 200  # functions looked at for one question; a callback that reaches more is not understood


def mends(callbacks: list[Callable[[], object]], holder: type | None, attribute: str, module: str) -> bool:
    """Whether one of `callbacks` renews `attribute` of an instance of `holder`, or the global of `module` if that is None."""
    package = module.partition(".")[0]
    own = {id(f) for base in (holder.__mro__ if holder else ()) for f in vars(base).values()}
    for callback in callbacks:
        for function in _reached(callback, holder):
            home = str(function.__globals__.get("__name__", "")).partition(".")[0]
            if id(function) not in own and home != package:
                continue
            for code in _codes(function.__code__):
                if attribute in _stored(code):
                    return True
                if attribute in code.co_names and "_at_fork_reinit" in code.co_names:
                    return True
    return False


def _reached(callback: Any, holder: type | None) -> Iterator[FunctionType]:
    seen: set[int] = set()
    queue: list[tuple[Any, int]] = [(callback, 0)]
    while queue and len(seen) < _LIMIT:
        item, depth = queue.pop()
        if isinstance(item, weakref.ref):
            item = item()
        if isinstance(item, functools.partial):
            queue.extend((part, depth) for part in (item.func, *item.args))
            continue
        if isinstance(item, BuiltinFunctionType):
            continue
        if isinstance(item, MethodType):
            item = item.__func__
        if not isinstance(item, FunctionType) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if depth == 4:
            continue
        for cell in item.__closure__ or ():
            try:
                queue.append((cell.cell_contents, depth + 1))
            except ValueError:  # an empty cell
                continue
        for code in _codes(item.__code__):
            for name in code.co_names:
                queue.append((item.__globals__.get(name), depth + 1))
                if holder is not None:
                    for base in holder.__mro__:
                        queue.append((vars(base).get(name), depth + 1))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _stored(code: CodeType) -> set[str]:
    names = set()
    extended = 0
    raw = code.co_code
    for at in range(0, len(raw), 2):
        argument = extended | raw[at + 1]
        extended = argument << 8 if raw[at] == _EXTENDED else 0
        if raw[at] in _STORES and argument < len(code.co_names):
            names.add(code.co_names[argument])
    return names


def loaded_module(code: CodeType) -> str:
    """The name of the module that a code object belongs to, "" if it cannot be told."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == code.co_filename:
            return name
    return ""
