"""From sightings to hazards: the words by which a person recognises what was held, who held it, and what to do.

Only names are read here (of attributes, variables, classes, modules, threads), never the values of locals.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType

from .keeper import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._native import Sighting
    from ..catalogue import Call

HOLDS, ACQUIRING, LEAVING, INSIDE, IMPORTING = range(5)
LOCK, RLOCK, BUFFERED, FOREIGN, SEMAPHORE, CALL, IMPORT = range(7)
# In place of a catalogue entry:
UNSEEN = -1  # no frame shows where the lock was taken
KEPT = -2  # a function took it that has returned; the frame has words for that call, and none for the lock
STATES = ("holds", "acquiring", "leaving", "inside", "importing")
KINDS = {
    LOCK: "held-lock",
    RLOCK: "held-lock",
    BUFFERED: "native-call",
    FOREIGN: "held-lock",
    SEMAPHORE: "held-lock",
    CALL: "native-call",
    IMPORT: "import-lock",
}

NEEDED_ONLY = frozenset({"vanished-worker", "native-pool"})  # as in model.py, which is not imported at a fork

ADVICE_LOCK = (
    "fork before the thread starts, or make the object in the child; if the child never uses it, "
    "forkproof.declare_safe(lock); else start children with multiprocessing's forkserver"
)
ADVICE_FILE = (
    "flush and stop writing to it from other threads before forking, or give the child a file of its own"
)


DEEPEST = 100
"""Frames of a stack that are told, from the innermost; faulthandler tells as many. Each thing that a thread holds has its stack: a
recursion that takes a lock at each level would make a report of the square of its depth."""


def hazards(
    sightings: list[tuple[Sighting, bool]], calls: list[Call], foreign: dict[int, Any]
) -> list[dict[str, Any]]:
    """The JSON form of each (docs/events.md); with it whether it is cleared."""
    stacks: dict[int, list[dict[str, Any]]] = {}  # of a thread's sightings one list, by its identity
    for s, _ in sightings:
        if id(s[14]) not in stacks:
            stacks[id(s[14])] = places(s[14])
    return [_hazard(s, calls, foreign, stacks[id(s[14])], cleared=cleared) for s, cleared in sightings]


def _hazard(
    s: Sighting, calls: list[Call], foreign: dict[int, Any], stack: list[dict[str, Any]], *, cleared: bool
) -> dict[str, Any]:
    ident, native_id, state, kind, certain = s[0], s[1], s[2], s[3], s[4]
    code, offset, named_at = s[10], s[11], s[12]
    result: dict[str, Any] = {
        "kind": KINDS[kind],
        "certainty": "certain" if certain and state != ACQUIRING else "possible",
        "cleared": cleared,
        "what": what(s, calls, foreign),
        "thread": {"name": holder_name(s), "ident": ident, "native_id": native_id},
        "stack": stack,
        "advice": advice(s, calls, foreign),
        "state": STATES[state],
    }
    if state in (HOLDS, LEAVING) and s[9] != UNSEEN:
        result["held_at"] = place(code, named_at if named_at >= 0 else offset)
    return result


def place(code: CodeType, offset: int) -> dict[str, Any]:
    """File, line and function of an instruction."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            line = number
            break
    return {"file": code.co_filename, "line": line, "function": code.co_name}


def places(stack: list[tuple[CodeType, int]]) -> list[dict[str, Any]]:
    """The innermost of a stack's frames."""
    return [place(code, at) for code, at in stack[:DEEPEST]]


def thread_name(ident: int) -> str:
    """Without threading's own lock, which may be the one that is held."""
    thread = threading._active.get(ident)  # type: ignore[attr-defined]
    name = getattr(thread, "_name", None)
    return name if isinstance(name, str) else f"thread {ident}"


def holder_name(s: Sighting) -> str:
    """As of the look: the thread may have ended since."""
    return s[16] or thread_name(s[0])


def class_name(kind: type) -> str:
    module = type.__getattribute__(kind, "__module__")
    name = type.__getattribute__(kind, "__qualname__")
    return name if module == "builtins" else f"{module}.{name}"


def module_of(file: str) -> str:
    """The module that a file is, as far as its path tells: "queue" for .../lib/python3.11/queue.py."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == file and name not in ("__main__", "__mp_main__"):
            return name
    return file.rpartition("/")[2]


def what(s: Sighting, calls: list[Call], foreign: dict[int, Any]) -> str:
    kind, subject, manager = s[3], s[7], s[8]
    code, named_at, owner = s[10], s[12], s[13]
    if kind == IMPORT:
        name = getattr(subject, "name", None)
        return f"import of {name}" if isinstance(name, str) else "the import machinery"
    if kind == CALL:
        call = calls[s[9]] if s[9] < len(calls) else None
        return call.what if call else "a native call"
    if kind == BUFFERED:
        return file_name(subject)
    if kind in (FOREIGN, LOCK, RLOCK) and id(subject) in foreign:
        return str(foreign[id(subject)].what)
    noun = ("a Lock", "an RLock", "", "a lock", "a semaphore")[kind]
    if s[9] in (UNSEEN, KEPT):
        kept = keeper(subject)
        if kept or s[9] == UNSEEN:
            return f"{kept[0]} of {kept[1]}" if kept else f"{noun} (taken where no frame shows it)"
    from .._native import expression

    text = expression(code, named_at) if named_at >= 0 else None
    if s[9] == KEPT:
        return f"{noun} taken in {code.co_qualname} of {module_of(code.co_filename)}"
    if kind == SEMAPHORE:
        noun = f"a permit of {text}" if text else noun
    if text is None:
        via = f" through {class_name(manager)}" if manager else ""
        return f"{noun} taken in {code.co_qualname} of {module_of(code.co_filename)}{via}"
    name = f"a permit of {text}" if kind == SEMAPHORE else text
    root = text.partition(".")[0]
    if owner is not None and root in ("self", "cls") and root in code.co_varnames[:1]:
        return f"{name} of {class_name(owner)}"
    if root in code.co_names:
        return f"{name} of {module_of(code.co_filename)}"
    via = f" ({class_name(manager)})" if manager else ""
    return f"{name} in {code.co_qualname} of {module_of(code.co_filename)}{via}"


def file_name(file: Any) -> str:
    kind = type(file).__name__
    for name in ("stdout", "stderr", "stdin"):
        for stream in (getattr(sys, name, None), getattr(sys, f"__{name}__", None)):
            if stream is not None and (stream is file or _buffer_of(stream) is file):
                return f"sys.{name} ({kind})"
    try:
        return f"{kind} on descriptor {file.fileno()}"
    except Exception:  # a detached or closed file, or a raw file of the program's that objects
        return kind


def _buffer_of(stream: Any) -> Any:
    import io

    return stream.buffer if isinstance(stream, io.TextIOWrapper) else None


def advice(s: Sighting, calls: list[Call], foreign: dict[int, Any]) -> str:
    kind, subject = s[3], s[7]
    if kind == IMPORT:
        name = getattr(subject, "name", None)
        if isinstance(name, str):
            return f"import {name} before the thread starts (at the top of the program), or fork before it starts"
        return "import what the thread needs before it starts, or fork before it starts"
    if kind in (CALL, BUFFERED) and s[9] < len(calls):
        return calls[s[9]].advice if kind == CALL else ADVICE_FILE
    if kind in (FOREIGN, LOCK, RLOCK) and id(subject) in foreign:
        return str(foreign[id(subject)].advice)
    return ADVICE_LOCK
