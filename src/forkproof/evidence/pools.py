"""Native threads, which Python does not know: whose they are, and what the catalogue says of them at a fork.

C reads their names and the libraries that their stacks lead into (`_c/pools.c`); here the library is chosen that the pool
belongs to. Each library is told of once. What the catalogue calls harmless is not told.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..catalogue import Pool

    Seen = tuple[int, str, list[str]]  # thread id, name, libraries on its stack

PYTHON = "<python>"  # stands for the interpreter's own program or library
_SYSTEM = (
    "libc.so",
    "libc-",
    "libpthread",
    "ld-linux",
    "ld-musl",
    "libm.so",
    "libdl.so",
    "librt.so",
    "libstdc++",
    "libgcc_s",
    "linux-vdso",
    "libc++",
)

_told: set[str] = set()
_here: dict[str, dict[str, Any]] = {}  # by library: pools that this process has
_gone: dict[str, dict[str, Any]] = {}  # that a process had from which this one was forked


def library(libraries: list[str]) -> str | None:
    """The library that a thread belongs to: the innermost that is not the system's; the interpreter if there is no other."""
    found = None
    for path in libraries:
        name = path.rpartition("/")[2]
        if name.startswith(_SYSTEM):
            continue
        if path == "" or name.startswith("libpython") or path == os.path.realpath(sys.executable):
            found = PYTHON
            continue
        return path
    return found


def entry(path: str, name: str, pools: list[Pool]) -> Pool | None:
    """What the catalogue knows of a thread of that name in that library."""
    named = next((pool for pool in pools if name in pool.threads), None)
    return named or next((pool for pool in pools if any(part in path for part in pool.libraries)), None)


def hazards(seen: list[Seen], pools: list[Pool], *, again: bool = False) -> list[dict[str, Any]]:
    """Hazards in their JSON form, one for each library; each library once, unless `again`."""
    groups: dict[str, tuple[Pool | None, list[Seen]]] = {}
    for thread in seen:
        path = library(thread[2])
        pool = None if path is None else entry(path, thread[1], pools)
        if path is not None and not (pool is not None and pool.is_harmless()):
            groups.setdefault(path, (pool, []))[1].append(thread)
    found = []
    for path, (pool, threads) in groups.items():
        hazard = _hazard(path, pool, threads)
        _here[path] = hazard
        if again or path not in _told:
            found.append(hazard)
            if not again:
                _told.add(path)
    return found


def _hazard(path: str, pool: Pool | None, threads: list[Seen]) -> dict[str, Any]:
    name = short(path)
    whose = name if pool is None else f"{pool.what} ({name})" if path != PYTHON else pool.what
    names = sorted({thread[1] for thread in threads})
    called = "" if names == [_program_name()] else f" named {', '.join(names[:3])}"
    count = f"{len(threads)} native thread{'' if len(threads) == 1 else 's'}"
    if pool is None:
        advice = f"nothing is known of {name} at a fork: a child may hang in it; fork before it is first used, or use forkserver"
    else:
        advice = f"a child that uses it {pool.child}; {pool.advice}"
    return {
        "kind": "native-pool",
        "certainty": "possible",
        "cleared": False,
        "what": f"{whose}: {count}{called}",
        "thread": None,
        "stack": [],
        "advice": advice,
    }


def short(path: str) -> str:
    """As an installed package has it, else the file's own name: "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0"."""
    path = os.path.normpath(path)
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in path:
            return path.partition(folder)[2]
    return path.rpartition("/")[2]


def _program_name() -> str:
    """Threads that nobody has named have the main thread's name."""
    try:
        with open("/proc/self/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


# ----------------------------------------------------------------------------------------------------------------------
# In a child


def here() -> list[dict[str, Any]]:
    """Hazards of the pools that this process has, told or not."""
    return list(_here.values())


def leave_behind(*, but: str | None = None) -> list[dict[str, Any]]:
    """In a child that has just been forked: what its parent had, and it has not; without that of one library, which is mended."""
    if but is not None:
        _here.pop(but, None)
    left = here()
    _gone.update(_here)
    _here.clear()
    return left


def left_behind() -> bool:
    """Whether any process that this one was forked from had a pool that may be waited for."""
    return bool(_gone)


def whats_left_behind() -> list[str]:
    """Those pools, in words."""
    return [hazard["what"] for hazard in _gone.values()]


def explains(native_id: int, threads: Sequence[int] = ()) -> dict[str, Any] | None:
    """In a child: the hazard of the pool in whose library that blocked thread stands, if the pool was left behind at a fork:
    likely, not proven. None if one of this process's `threads`, or a native one, may be at work in that library: a blocked
    one that stands in it, or one that runs."""
    from .. import _native

    inside = _inside(native_id)
    hazard = next((_gone[path] for path in inside if path in _gone), None)
    if hazard is None:
        return None
    others = [libraries for _, _, libraries in _native.native_threads()]
    for other in threads:
        futex = _native.futex_of(other)
        if futex is None or not futex[0]:
            others.append([] if _runs(other) else _native.libraries_of_thread(other))
    return None if any(not o or not inside.isdisjoint(o) for o in others) else hazard


def left_without(what: str, pools: list[Pool]) -> dict[str, Any] | None:
    """In a child: the hazard of the pool that the catalogue calls `what`, if it was left behind and this process has no native
    thread that may be one of that library's."""
    from .. import _native

    for path, hazard in _gone.items():
        pool = entry(path, "", pools)
        if pool is not None and pool.what == what:
            others = [libraries for _, _, libraries in _native.native_threads()]
            return None if any(not libraries or path in libraries for libraries in others) else hazard
    return None


def _runs(native_id: int) -> bool:
    """Whether a thread is at work; the caller has the GIL, so that it is at work in native code."""
    try:
        with open(f"/proc/self/task/{native_id}/syscall", encoding="ascii") as file:
            return file.read().startswith("running")
    except OSError:
        return True


def _inside(native_id: int) -> set[str]:
    """The libraries between the system call and the interpreter that called into them; and the one at whose variable it waits.

    An old word of the interpreter's may lie on the stack before the library's; of its own variable a library itself is the user.
    """
    from .. import _native

    futex = _native.futex_of(native_id)
    owner = _owner_of(futex[2]) if futex is not None else ""
    found = {owner} if owner and library([owner]) not in (None, PYTHON) else set()
    for path in _native.libraries_of_thread(native_id):
        if library([path]) == PYTHON:
            break
        if library([path]):
            found.add(path)
    return found


def _owner_of(address: int) -> str:
    """The file whose variables lie at `address`: it is mapped there, or is the one that the zeroed memory follows; "" for none."""
    path, end = "", 0
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                span, _permissions, _offset, _device, _inode, *name = line.split(maxsplit=5)
                begin, until = (int(bound, 16) for bound in span.split("-"))
                if name:
                    path = name[0].rstrip("\n") if name[0].startswith("/") else ""
                elif begin != end:
                    path = ""
                end = until
                if begin <= address < end:
                    return path
    except (OSError, ValueError):
        pass
    return ""
