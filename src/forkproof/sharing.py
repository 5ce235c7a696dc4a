"""Connections that a child inherits: switches the watch over them on, and says which they are.

The rest is C (`_c/connections.c`): a call on an inherited connection is noted without the GIL, and may be told when the
interpreter is gone already. So it is given the remedies of the catalogue beforehand.
"""

from __future__ import annotations

from . import catalogue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ADVICE = (
    "open the connection in the child, after the fork, and do nothing with the inherited one but close its descriptor; "
    "or close it in the parent"
)


def watch(on: bool, events: str | None) -> None:
    """Have the children of later forks watched, or not; told in the file `events`, else on stderr."""
    from . import _native

    known = catalogue.all_connections() if on else []
    _native.watch_connections(on, events, tuple(map(_remedy, known)), ADVICE)


def _remedy(entry: catalogue.Connection) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    # A package by its folder among those that are installed: a program may have one of that name itself.
    return entry.what, entry.advice, tuple(f"-packages/{name}/" for name in entry.packages), entry.libraries


def inherited() -> list[dict[str, Any]]:
    """In a child: the connections that it has from its parent, in the JSON form of the events."""
    from . import _native

    return [
        {"kind": kind, "fd": fd, "local": local or None, "peer": peer or None}
        for fd, kind, local, peer, _accepted in _native.inherited_connections()
    ]
