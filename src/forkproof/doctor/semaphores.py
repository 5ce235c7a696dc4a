"""Who has a lock of multiprocessing's: a semaphore names nobody, but each process keeps books of what it has itself.

A `SemLock` (Modules/_multiprocessing/semaphore.c) is the handle of the semaphore and how often this process has taken it, less how
often it has let go of it. Processes that were forked have theirs at the same address; in others it is searched for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forkproof.doctor.errors import DoctorError, Forbidden
from forkproof.doctor.objects import Objects
from forkproof.doctor.process import Process, Region, has_memory, pids, read

_SHARED_LOCKS = ("Lock", "RLock")
_KIND = "_multiprocessing.SemLock"
_MEMORY = 1 << 28  # bytes of another process to search for its SemLock


@dataclass(frozen=True, slots=True)
class Shared:
    """A lock that processes share."""

    holders: frozenset[int]
    """The processes that have taken it, by their own books."""
    sharers: frozenset[int]
    """All that have it mapped."""
    hole: str
    """Whose books were not read; "" where all were."""


def semlock(lock: int, futex: int, objects: Objects) -> int:
    """The SemLock of a multiprocessing Lock or RLock at whose semaphore a thread waits; 0 if it is none."""
    if objects.kind(lock) not in _SHARED_LOCKS:
        return 0
    address = objects.attributes(lock).get("_semlock", 0)
    return address if objects.kind(address) == _KIND and objects.handle_of(address) == futex else 0


def sharers(region: Region) -> tuple[frozenset[int], str]:
    """All processes that have the same memory, and who may have it besides, unseen."""
    found, hole = set(), ""
    for pid in pids():
        try:
            if region.file in read(f"/proc/{pid}/maps"):
                found.add(pid)
        except PermissionError:
            hole = hole or (f"process {pid} may not be looked at" if has_memory(pid) else "")
        except OSError:  # it has ended
            continue
    return frozenset(found), hole


def shared(address: int, region: Region, objects: Objects) -> Shared:
    """The books of all processes that share the semaphore of the SemLock at `address`, which lies in `region`."""
    everybody, hole = sharers(region)
    holders = set()
    offset = objects.handle_of(address) - region.start
    for pid in everybody:
        try:
            with Process(pid) as other:
                handles = {one.start + offset for one in other.regions() if _is_same(one, region)}
                count = _count(address, handles, other, Objects(other.read, objects.version))
        except Forbidden:
            count = None
        except DoctorError:  # it has ended
            continue
        if count is None:
            hole = hole or f"the books of process {pid} were not found"
        elif count > 0:
            holders.add(pid)
    return Shared(frozenset(holders), everybody, hole)


def _is_same(one: Region, other: Region) -> bool:
    return one.is_shared and (one.file, one.offset) == (other.file, other.offset)


def _count(address: int, handles: set[int], process: Process, objects: Objects) -> int | None:
    for place in (address, *_anywhere(handles, process, objects)):
        if objects.kind(place) == _KIND and objects.handle_of(place) in handles:
            return objects.count_of(place)
    return None


def _anywhere(handles: set[int], process: Process, objects: Objects) -> Iterator[int]:
    own = [
        (region.start, region.end)
        for region in process.regions()
        if "rw" in region.permissions and not region.is_shared and region.path in ("", "[heap]")
    ]
    for handle in handles:
        yield from (place - 16 for place in objects.places_of(handle, own, _MEMORY))
