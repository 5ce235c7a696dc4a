"""What the child puts right of imports that vanished threads were in the middle of.

Locks are reset in C, inside fork() itself (`_c/guard.c`). Imports need Python, and run first of all callbacks in the
child: the module lock of a vanished thread is dropped, so that the next import makes a fresh one, and the module that was
half imported leaves `sys.modules`, so that it is imported anew. Matched by the fork's record, never by the owner's ident,
which the child's first new thread may get again.

Guarantee: imports nothing, takes no lock, and touches nothing that the surviving thread is importing itself.
"""

from __future__ import annotations

import sys
from importlib import _bootstrap as _untyped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_bootstrap: Any = _untyped


def drop_imports(locks: list[Any], vanished: set[int]) -> list[str]:
    """Forget the imports that `locks` (importlib's module locks of vanished threads) stood for; returns their names.

    `vanished` are the idents of the threads that were importing: what they are noted to block on is forgotten as well, or
    a new thread with a reused ident would be taken for them by importlib's deadlock detection.
    """
    dropped = []
    for name, reference in list(_bootstrap._module_locks.items()):
        lock = reference()
        if any(lock is gone for gone in locks):
            _bootstrap._module_locks.pop(name, None)
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if getattr(spec, "_initializing", False):
                del sys.modules[name]
            dropped.append(name)
    blocking = getattr(
        _bootstrap._blocking_on, "data", _bootstrap._blocking_on
    )  # 3.12 on: a weak dictionary of its own
    for ident in vanished:
        blocking.pop(ident, None)
    return dropped
