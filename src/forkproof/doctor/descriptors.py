"""Who has what open: the descriptors of all processes at one moment, and what is at the other end of each.

Only links and small files of /proc are read, which asks no file system and no process. A pipe's two ends have one name there;
which socket a unix socket is connected to is asked of the kernel (sock_diag(7)), and a TCP socket's is the one with its addresses the
other way round. Where somebody may have a thing open who is not
seen, `hole` says who that is, and nothing can be proven from it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property

from forkproof.doctor.process import connections, has_memory, pids, read, status

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h
_TURNS = 20
# net/tcp_states.h: established, and with one direction closed; the timer of tcp_ipv4.c for an other end that has no room.
_CONNECTED, _PROBES = (1, 5, 8), 4
_LOOPBACK = ("127.", "[::1]:")
# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _SHOW_PEER, _PEER = 4, 20, 1, 4, 2


class Descriptors:
    """All descriptors that may be seen, read once."""

    @cached_property
    def _seen(self) -> tuple[dict[str, list[tuple[int, str]]], str]:
        found: dict[str, list[tuple[int, str]]] = {}
        hidden = 0
        seen: set[int] = set()
        # What a process that ends meanwhile had is closed, or in a child that is new in the next list.
        for _ in range(_TURNS):
            if not (new := set(pids()) - seen):
                return found, _hole(hidden)
            seen |= new
            for pid in new:
                try:
                    for number in os.listdir(f"/proc/{pid}/fd"):
                        with suppress(FileNotFoundError):
                            link = os.readlink(f"/proc/{pid}/fd/{number}")
                            found.setdefault(link, []).append((pid, number))
                except PermissionError:
                    hidden += has_memory(pid)
                except OSError:
                    continue
        return found, "processes come too fast to look at them all"

    @property
    def hole(self) -> str:
        """Who may have something open and was not seen; "" for nobody."""
        return self._seen[1]

    @cached_property
    def in_flight(self) -> str:
        """Like `hole`: descriptors that one process has sent another and that has not taken yet (unix(7), SCM_RIGHTS)."""
        for link, places in self._seen[0].items():
            if link.startswith("socket:"):
                for pid, number in places:
                    with suppress(OSError, ValueError):
                        if int(status(f"/proc/{pid}/fdinfo/{number}").get("scm_fds", "0")):
                            return "a descriptor is on its way between two processes"
        return ""

    def holders(self, link: str) -> frozenset[int]:
        """The processes that have it open."""
        return frozenset(pid for pid, _ in self._seen[0].get(link, ()))

    def other_ends(self, pipe: str, writes: bool) -> frozenset[int]:
        """The processes that have the end of a pipe that writes to, or reads from, this one."""
        found = set()
        for pid, number in self._seen[0].get(pipe, ()):
            with suppress(OSError, KeyError):
                mode = int(status(f"/proc/{pid}/fdinfo/{number}")["flags"], 8) & os.O_ACCMODE
                if mode == os.O_RDWR or (mode == os.O_WRONLY) != writes:
                    found.add(pid)
        return frozenset(found)

    def locked(self) -> Iterator[tuple[int, str]]:
        """Each process with each lock of an open file that it shares, as in /proc/locks but for the number."""
        for link, places in self._seen[0].items():
            if not link.startswith("/") or link.startswith("/dev/"):
                continue
            for pid, number in places:
                with suppress(OSError):
                    for line in read(f"/proc/{pid}/fdinfo/{number}").splitlines():
                        if line.startswith("lock:"):
                            yield pid, line.partition(":")[2].strip().partition(":")[2].strip()


def unix_peer(inode: int) -> int | None:
    """The inode of the socket that a unix socket is connected to; None where there is none, or the kernel does not tell."""
    question = struct.pack(
        "=BBHIII2I", socket.AF_UNIX, 0, 0, 2**32 - 1, inode, _SHOW_PEER, 2**32 - 1, 2**32 - 1
    )
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
            kernel.settimeout(1)
            kernel.send(struct.pack("=IHHII", 16 + len(question), _BY_FAMILY, _REQUEST, 1, 0) + question)
            answer = kernel.recv(4096)
    except OSError:
        return None
    if len(answer) < 32 or struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
        return None
    at = 32
    while at + 8 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == _PEER and length == 8:
            return int(struct.unpack_from("=I", answer, at + 4)[0]) or None
        at += max(4, length + 3 & ~3)
    return None


def tcp_peer(pid: int, inode: int) -> int | None:
    """The inode of the socket that a TCP socket of process `pid` is connected to by the machine's own loopback.

    None where there is none, or where bytes may be on their way: then it may go on although no process does anything. There are none
    if what was written is confirmed, or the kernel waits until the receiver has read what is there.
    """
    found = list(connections(pid))
    mine = next((one for one in found if one.inode == inode), None)
    if mine is None:
        return None
    ends = _plain(mine.local), _plain(mine.remote)
    if not all(end.startswith(_LOOPBACK) for end in ends):
        return None
    others = [
        one
        for one in found
        if one.may_be_other_end_of(mine) and (_plain(one.remote), _plain(one.local)) == ends
    ]
    if len(others) != 1:
        return None
    both = mine, others[0]
    at_rest = all(not one.unacknowledged or one.timer == _PROBES for one in both)
    return others[0].inode or None if at_rest and all(one.state in _CONNECTED for one in both) else None


def _plain(address: str) -> str:
    """An address of IPv4 as such, where a socket of IPv6 has it (RFC 4291, 2.5.5.2)."""
    return address.replace("[::ffff:", "").replace("]", "") if address.startswith("[::ffff:") else address


def _hole(hidden: int) -> str:
    if hidden:
        return f"{hidden} process{'' if hidden == 1 else 'es'} may not be looked at"
    with suppress(OSError):
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            return "processes outside of this container are not seen"
        if os.geteuid() and "hidepid=" in read("/proc/self/mountinfo"):
            return "/proc hides other users' processes (hidepid)"
    return ""
