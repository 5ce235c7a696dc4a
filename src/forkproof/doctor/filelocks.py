"""Who has a file locked that a thread waits for: flock(2), and fcntl(2)'s locks of a process and of an open file (OFD).

The kernel lists those who wait, and for which file, in /proc/locks (proc_locks(5)), and the locks of an open file in the `fdinfo` of
each descriptor for it. The latter counts: after a fork both processes have the file open, and either can unlock it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from forkproof.doctor.descriptors import Descriptors
from forkproof.doctor.process import Task, read, status

# asm-generic/fcntl.h and linux/fcntl.h of 64-bit machines
_WAITING = {7: "POSIX", 38: "OFDLCK"}  # F_SETLKW, F_OFD_SETLKW
_LOCK_SH, _LOCK_EX = 1, 2
_WRITE = 1  # F_WRLCK
_END = 1 << 63


@dataclass(frozen=True, slots=True)
class _Lock:
    kind: str
    """`FLOCK`, `POSIX` or `OFDLCK`."""
    writes: bool
    pid: int
    file: str
    """Device and inode."""
    begin: int
    end: int


def holders(
    task: Task, pid: int, descriptors: Descriptors, memory: Callable[[int, int], bytes]
) -> tuple[tuple[frozenset[int], ...], str] | None:
    """Who can unlock what `task` of process `pid` waits to lock: for each lock that is in its way the processes that share it.

    And who may besides, unseen. None where it waits for no such lock, or the kernel does not tell.
    """
    assert task.call
    number, operation, address = task.call.arguments[:3]
    writes, begin, end = True, 0, _END
    if task.call.name == "flock":
        kinds = {"FLOCK"}
        writes = operation & 0xF == _LOCK_EX
    else:
        if operation not in _WAITING:
            return None
        kinds = {"POSIX", "OFDLCK"}
        if len(asked := memory(address, 24)) == 24:
            kind, whence, begin, length = struct.unpack("@hh4xqq", asked)
            writes = kind == _WRITE
            end = begin + length if length > 0 else _END
            if (
                whence or length < 0
            ):  # from where the file is read, or backwards: then any lock may be in its way
                begin, end = 0, _END
    mine = "OFDLCK" if task.call.name == "fcntl" and _WAITING[operation] == "OFDLCK" else None
    try:
        inode = status(f"/proc/{pid}/fdinfo/{number}").get("ino") or str(
            os.stat(f"/proc/{pid}/fd/{number}").st_ino
        )
        listed = [
            (" -> " in line, lock) for line in read("/proc/locks").splitlines() if (lock := _lock(line))
        ]
    except OSError:
        return None
    waiting = (
        lock.file
        for waits, lock in listed
        if waits and lock.kind in kinds and lock.file.endswith(f":{inode}") and (mine or lock.pid == pid)
    )
    file = next(waiting, None)
    if file is None:
        return None

    def is_in_the_way(lock: _Lock) -> bool:
        own = lock.kind == "POSIX" and not mine and lock.pid == pid
        overlaps = lock.begin < end and begin < lock.end
        return lock.file == file and lock.kind in kinds and (writes or lock.writes) and overlaps and not own

    found: dict[_Lock, set[int]] = {}
    for holder, line in descriptors.locked():
        lock = _lock(f"1: {line}")
        if lock and is_in_the_way(lock):
            found.setdefault(lock, set()).add(holder)
    hole = descriptors.hole if "FLOCK" in kinds or any(lock.kind == "OFDLCK" for lock in found) else ""
    for waits, lock in listed:
        if not waits and lock not in found and is_in_the_way(lock):
            hole = hole or ("" if lock.kind == "POSIX" else "who has the file open is not seen")
            if lock.pid > 0:
                found[lock] = {lock.pid}
    return (tuple(map(frozenset, found.values())), hole) if found else None


def _lock(line: str) -> _Lock | None:
    """A line of /proc/locks: `1: -> FLOCK  ADVISORY  WRITE 3672 fe:00:2146323 0 EOF`."""
    words = [word for word in line.split()[1:] if word != "->"]
    if len(words) < 7 or words[0] not in ("FLOCK", "POSIX", "OFDLCK"):
        return None
    kind, _, mode, pid, file, begin, end = words[:7]
    return _Lock(kind, mode == "WRITE", int(pid), file, int(begin), _END if end == "EOF" else int(end) + 1)
