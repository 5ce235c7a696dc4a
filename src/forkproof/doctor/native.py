"""The lock behind a futex word: which kind of glibc's it is, who has it, and whose memory it is in.

The words alone do not say what they are, so the C functions on the thread's stack do: `pthread_mutex_lock` waits at a mutex,
`sem_wait` at a semaphore. Only a mutex and a rwlock that is written to name an owner; a semaphore (and with that
CPython's locks up to 3.13), a condition variable and a rwlock that is read do not. Layouts are those of glibc's
`bits/struct_mutex.h` and `bits/struct_rwlock.h`, the same on x86-64 and aarch64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forkproof.doctor.process import Region, library_at
from forkproof.doctor.stacks import Native

_KINDS = (  # what a function on the stack has in its name, innermost first
    ("mutex", ("mutex_lock", "mutex_cond_lock", "lll_lock_wait", "mutex_timedlock")),
    ("rwlock", ("rwlock_rdlock", "rwlock_wrlock", "rwlock_timed", "rwlock_clock")),
    ("condition variable", ("cond_wait", "cond_timedwait", "cond_clockwait")),
    ("thread", ("pthread_join", "pthread_timedjoin", "pthread_clockjoin")),
    ("semaphore", ("sem_wait", "sem_timedwait", "sem_clockwait")),
)
_MUTEXES = {0: "normal", 1: "recursive", 2: "error-checking", 3: "adaptive"}
_SHARED_BETWEEN_PROCESSES = 128
_LARGEST_ID = 1 << 22  # PID_MAX_LIMIT of the kernel
_C_LIBRARY = ("libc.so", "libc-", "libpthread", "ld-linux", "ld-")


@dataclass(frozen=True, slots=True)
class NativeLock:
    """A lock of the C library that a thread waits for."""

    kind: str
    """`mutex`, `rwlock`, `condition variable`, `semaphore`, `thread` (its end); "" for none of glibc's."""
    flavour: str
    """Of a mutex: `normal`, `recursive`, `error-checking`, `adaptive`. Of a rwlock: how it is held."""
    address: int
    owner: int | None
    """The id, as the process itself knows it, of the thread that has it; None where the lock does not say."""
    caller: Native | None
    """The innermost function outside of the C library: who asked for the lock."""
    region: Region | None
    """The memory that it is in."""
    library: str
    """The library whose variable it is; "" for memory that was allocated."""
    is_shared: bool
    """Threads of other processes may have it."""


def lock_at(
    futex: int, stack: Sequence[Native], regions: Sequence[Region], read: Callable[[int, int], bytes]
) -> NativeLock:
    """What a thread waits for at the word `futex` with that native stack, innermost frame first."""
    kind = _kind(stack)
    caller = next((frame for frame in stack if not is_c_library(frame.library)), None)
    region = next((region for region in regions if region.start <= futex < region.end), None)
    shared = region is not None and region.is_shared
    flavour, owner, address = "", None, futex
    if kind == "mutex":
        flavour, owner, between = _mutex(read(futex, 20))
        shared |= between
    elif kind == "rwlock":
        address, flavour, owner, between = _rwlock(futex, read)
        shared |= between
    elif kind == "thread":
        word = read(futex, 4)
        owner = int.from_bytes(word, "little") if word else None
    return NativeLock(kind, flavour, address, owner, caller, region, library_at(futex, regions), shared)


def _kind(stack: Sequence[Native]) -> str:
    for frame in stack:
        for kind, parts in _KINDS:
            if any(part in frame.symbol for part in parts):
                return kind
        if not is_c_library(frame.library):
            break
    return ""


def is_c_library(path: str) -> bool:
    """Whose functions say only how a thread waits, not for what."""
    return os.path.basename(path).startswith(_C_LIBRARY)


def _mutex(words: bytes) -> tuple[str, int | None, bool]:
    """Flavour, owner, and whether processes share it; nothing where the words are not a mutex that somebody has."""
    if len(words) < 20:
        return "", None, False
    lock, _count, owner, users, kind = struct.unpack("<5I", words)
    flavour = _MUTEXES.get(kind & 0x7F & ~0x70, "")
    if not flavour or not lock or not 0 < owner < _LARGEST_ID or users > _LARGEST_ID:
        return flavour, None, bool(kind & _SHARED_BETWEEN_PROCESSES)
    return flavour, owner, bool(kind & _SHARED_BETWEEN_PROCESSES)


def _rwlock(futex: int, read: Callable[[int, int], bytes]) -> tuple[int, str, int | None, bool]:
    """Address, how it is held, who writes, and whether processes share it. A thread waits at its third or fourth word."""
    for start in (futex - 8, futex - 12):
        words = read(start, 56)
        if not words:
            continue
        readers, _writers, _phase, _waiting, pad3, pad4, writer, shared = struct.unpack_from("<8I", words)
        flags = struct.unpack_from("<I", words, 48)[0]
        if pad3 or pad4 or shared > 1 or flags > 3 or writer >= _LARGEST_ID:
            continue
        if writer:
            return start, "held by a writer", writer, bool(shared)
        if readers >> 3:
            return start, f"held by {readers >> 3} readers, which it does not name", None, bool(shared)
    return futex, "", None, False
