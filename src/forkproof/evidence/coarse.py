"""Evidence without the extension: module locks, and the calls that threads' innermost Python frames name.

For interpreters whose frames `_native` does not know. It sees imports in progress and look-ups of names, not locks, and
between its look and the fork another thread may run: it narrows the gap and does not close it. Where there is no GIL it sees
imports only: a frame must not be read while its thread runs on.
"""

from __future__ import annotations

import sys
import threading
from importlib import _bootstrap as _untyped

from .naming import DEEPEST, place, thread_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_bootstrap: Any = _untyped

LOOKUPS = frozenset(
    {"getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"}
)


def look() -> list[dict[str, Any]]:
    """Hazards as of now, in their JSON form."""
    me = threading.get_ident()
    still = not runs_on()
    frames: dict[int, FrameType | None]
    frames = {**sys._current_frames()} if still else dict.fromkeys(list(threading._active))  # type: ignore[attr-defined]
    hazards = []
    for reference in list(_bootstrap._module_locks.values()):
        lock = reference()
        owner = getattr(lock, "owner", None)
        if lock is None or owner is None or owner == me or owner not in frames:
            continue
        hazards.append(_hazard("import-lock", "certain", f"import of {lock.name}", owner, frames[owner]))
    for ident, frame in frames.items():
        if (
            frame is not None
            and ident != me
            and frame.f_code.co_name in LOOKUPS
            and frame.f_globals.get("__name__") == "socket"
        ):
            hazards.append(_hazard("native-call", "possible", frame.f_code.co_name, ident, frame))
    return hazards


def runs_on() -> bool:
    """Whether other threads run while this one looks: a free-threaded build whose GIL is off."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def _hazard(kind: str, certainty: str, what: str, ident: int, frame: FrameType | None) -> dict[str, Any]:
    stack: list[dict[str, Any]] = []
    at = frame
    while at is not None and len(stack) < DEEPEST:
        stack.append(place(at.f_code, at.f_lasti))
        at = at.f_back
    thread = threading._active.get(ident)  # type: ignore[attr-defined]
    return {
        "kind": kind,
        "certainty": certainty,
        "cleared": False,
        "what": what,
        "thread": {
            "name": thread_name(ident),
            "ident": ident,
            "native_id": getattr(thread, "native_id", None) or 0,
        },
        "stack": stack,
        "advice": "do this before the thread starts, or fork before it starts",
        "state": "importing" if kind == "import-lock" else "inside",
    }
