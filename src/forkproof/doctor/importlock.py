"""CPython's import lock: where it is in the interpreter's own variables, and which thread has it.

It guards the table of modules that are being imported, and is taken for each look into that, and for each fork. It is no object,
and has another layout in nearly every version:

    3.11      three static variables: import_lock, import_lock_thread, import_lock_level                (Python/import.c)
    3.12      mutex, thread, level, side by side: struct _import_state.lock            (internal/pycore_import.h)
    3.13 on   the same with the mutex inside: _PyRecursiveMutex                        (internal/pycore_lock.h)

So it is found by what a thread waits at, and not by an offset. What remains unclear is 3.11 without its symbols: there the
one word among the interpreter's variables that is a thread's ident is taken for the owner, and `is_certain` is False.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forkproof.doctor.process import Region, library_at
from forkproof.doctor.stacks import Stack
from forkproof.doctor.symbols import places_of

_PYTHON = re.compile(r"(^|/)(lib)?python3(\.\d+)?[a-z]*(\.so[.\d]*)?( \(deleted\))?$")
_IMPORTLIB = "<frozen importlib._bootstrap>"
_ASKING = ("_get_module_lock", "cb", "__enter__")  # the functions of importlib that call _imp.acquire_lock()
_DEEPEST = 1000  # how often one thread has it, at most
_DESCRIPTOR = 4096  # bytes of glibc's struct pthread, at most; an ident is its address


@dataclass(frozen=True, slots=True)
class ImportLock:
    """The lock at one moment."""

    address: int
    owner: int | None
    """The ident of the thread that has it; None where that was not found."""
    is_certain: bool = True
    """The owner was read where it must be; otherwise it was guessed."""


def is_asked_for(stack: Stack) -> bool:
    """Whether a thread that waits for a lock waits for this one, by its frames."""
    inner = stack.python[0] if stack.python else None
    by_python = inner is not None and inner.file == _IMPORTLIB and inner.function in _ASKING
    return by_python or stack.is_inside("_PyImport_AcquireLock")


def find(
    futex: int,
    parked: int,
    version: tuple[int, int],
    regions: Sequence[Region],
    read: Callable[[int, int], bytes],
    root: str,
    robust_lists: Callable[[], Sequence[int]],
) -> ImportLock:
    """The lock that a thread asks for which waits at the word `futex`, parked at `parked` (3.13 on).

    `root` is where the files of the process are; `robust_lists` tells where the threads have theirs, each inside the
    memory that begins at the thread's ident.
    """
    if version >= (3, 13):
        return ImportLock(parked, _word(read, parked + 8) or None) if parked else ImportLock(futex, None)
    own = [region for region in regions if "rw" in region.permissions and not region.is_shared]
    variables = [region for region in own if _PYTHON.search(library_at(region.start, regions))]
    if version >= (3, 12):
        for place in _words(struct.pack("@Q", futex), variables, read):
            owner, level = struct.unpack("@Qi", read(place + 8, 12) or bytes(12))
            if owner and 0 < level < _DEEPEST:
                return ImportLock(place, owner)
        return ImportLock(futex, None)
    places: Mapping[str, tuple[int, int]] = {}
    for library in {
        library_at(region.start, regions) for region in variables
    }:  # the program's own, or libpython
        found = places_of(("import_lock", "import_lock_thread", "_PyRuntime"), library, regions, root)
        places = {**places, **found}
    if "import_lock_thread" in places and _word(read, places["import_lock"][0]) == futex:
        return ImportLock(places["import_lock"][0], _word(read, places["import_lock_thread"][0]) or None)
    if "_PyRuntime" not in places:
        return ImportLock(futex, None)
    return ImportLock(futex, _only_ident(variables, read, robust_lists(), places["_PyRuntime"]), False)


def _only_ident(
    variables: Sequence[Region],
    read: Callable[[int, int], bytes],
    robust_lists: Sequence[int],
    elsewhere: tuple[int, int],
) -> int | None:
    """The ident of a thread that is alone among these variables; `elsewhere` (begin and size) has the main thread's as well."""
    low, high = min(robust_lists, default=0) - _DESCRIPTOR, max(robust_lists, default=0)
    begin, size = elsewhere
    found = set()
    for region in variables:
        data = read(region.start, region.end - region.start)
        for at, (word,) in enumerate(struct.iter_unpack("@Q", data)):
            if low < word <= high and not begin <= region.start + 8 * at < begin + size:
                found |= {word for head in robust_lists if 0 <= head - word < _DESCRIPTOR}
    return found.pop() if len(found) == 1 else None


def _words(wanted: bytes, regions: Sequence[Region], read: Callable[[int, int], bytes]) -> Iterator[int]:
    """The places where a word is, aligned."""
    for region in regions:
        data = read(region.start, region.end - region.start)
        at = data.find(wanted)
        while at >= 0:
            if at % 8 == 0:
                yield region.start + at
            at = data.find(wanted, at + 1)


def _word(read: Callable[[int, int], bytes], address: int) -> int:
    return int.from_bytes(read(address, 8), "little")
