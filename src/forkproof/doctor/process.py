"""A process as the kernel shows it: /proc, and nothing that the process would notice.

Nothing here stops or changes the process. It may end at any moment, so everything may raise `Gone`; where the system
forbids a reading, `Forbidden` says what to allow. Thread ids have two forms: the one of this side (`tid`), and the one
that the process itself knows and writes into its locks (`inner`), which differs where it has a pid namespace of its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import struct
import sys
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from forkproof._events import program_of as _program_of_python
from forkproof._secrets import redacted_command
from forkproof.doctor import yama
from forkproof.doctor.errors import DoctorError, Forbidden, Gone

_FORKED_NOT_EXECED = 0x40  # PF_FORKNOEXEC in linux/sched.h: set by fork, cleared by exec
_KERNEL_THREAD = 0x200000  # PF_KTHREAD, there too
_AT_NULL, _AT_RANDOM = 0, 25
_FUTEX_CLOCK_REALTIME, _FUTEX_PRIVATE = 0x100, 0x80
_FUTEX_WAITS = {0, 6, 9, 11, 13}  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2 of linux/futex.h
# Of glibc (cancelling, setuid), of faults of the program's own (faulthandler), and Ctrl-C.
_NO_HANDLER_OF_PYTHON_CODE = frozenset({2, 4, 5, 6, 7, 8, 11, 32, 33})
_LISTENS = 10  # TCP_LISTEN of net/tcp_states.h
_INTERPRETER = re.compile(r"(python|pypy)[\d.]*t?d?$")
_GET_ROBUST_LIST = {"x86_64": 274, "aarch64": 100}


@dataclass(frozen=True, slots=True)
class Call:
    """The system call that a thread is blocked in."""

    name: str
    words: str
    """What a thread in it does, for a person; `{fd}` stands for what its descriptor is."""
    arguments: tuple[int, ...]
    timed: bool
    """It ends by itself after some time."""

    @property
    def is_futex(self) -> bool:
        return self.name == "futex" and self.arguments[1] & 0x7F in _FUTEX_WAITS

    @property
    def address(self) -> int:
        """The word that a futex call waits on."""
        return self.arguments[0]

    @property
    def is_private(self) -> bool:
        """Only a thread that shares this memory can wake it: no other process, and not the kernel."""
        return self.is_futex and bool(self.arguments[1] & _FUTEX_PRIVATE)


@dataclass(frozen=True, slots=True)
class Task:
    """A thread at one moment."""

    tid: int
    inner: int
    name: str
    """As the kernel has it: at most 15 bytes."""
    state: str
    started: int
    """In clock ticks after the machine's start."""
    ticks: int
    """Processor time used, in clock ticks."""
    switches: int
    """How often it has been switched away from; grows whenever it has run."""
    call: Call | None
    stack: int
    """Its stack pointer; 0 where it is running."""

    @property
    def waits_for_ever(self) -> bool:
        """It waits on memory of this process, without a time limit: only a thread of this process ends that."""
        return self.call is not None and self.call.is_private and not self.call.timed

    def is_as(self, earlier: Task) -> bool:
        """Whether it has not run since `earlier` was taken."""
        return (self.tid, self.started, self.switches, self.ticks, self.call) == (
            earlier.tid,
            earlier.started,
            earlier.switches,
            earlier.ticks,
            earlier.call,
        )


@dataclass(frozen=True, slots=True)
class Region:
    """A mapping of memory."""

    start: int
    end: int
    permissions: str
    offset: int
    path: str
    file: str = ""
    """Device and inode of what is mapped, which tell it from others of the same path."""

    @property
    def is_shared(self) -> bool:
        """Other processes may see, and change, what is in it."""
        return "s" in self.permissions


class Process:
    """A live process. Opening it checks that it may be looked at."""

    is_alive = True

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = f"/proc/{pid}"
        self.started = self._stat()[19]
        try:
            self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
            with open(f"{self._folder}/syscall") as file:
                file.read()
        except PermissionError:
            raise Forbidden(_what_to_allow(pid)) from None
        except OSError:
            if self._stat()[6] & _KERNEL_THREAD:
                raise DoctorError(f"process {pid} is a thread of the kernel, not a program") from None
            raise self._gone() from None

    def close(self) -> None:
        os.close(self._memory)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it is.

    @cached_property
    def command(self) -> str:
        """Its command line, for a person: without what looks like a credential."""
        with self._looking():
            words = read(f"{self._folder}/cmdline").rstrip("\0").split("\0")
            return redacted_command(words) if words != [""] else f"[{read(f'{self._folder}/comm').strip()}]"

    @cached_property
    def executable(self) -> str:
        try:
            return os.readlink(f"{self._folder}/exe")
        except OSError:
            return ""

    @property
    def parent(self) -> int:
        return self._stat()[1]

    @property
    def flags(self) -> int:
        return self._stat()[6]

    @property
    def was_forked(self) -> bool:
        """It has not exec'd since it was forked: the kernel's own mark."""
        return bool(self.flags & _FORKED_NOT_EXECED)

    @cached_property
    def inner(self) -> int:
        """Its id in its own pid namespace."""
        with self._looking():
            return _inner(status(f"{self._folder}/status"), self.pid)

    @cached_property
    def caught_signals(self) -> frozenset[int]:
        """The signals that it has a handler for."""
        with self._looking():
            mask = int(status(f"{self._folder}/status").get("SigCgt", "0"), 16)
        return frozenset(number for number in range(1, 65) if mask >> number - 1 & 1)

    @property
    def has_handlers(self) -> bool:
        """Code of the program's may run in its main thread when a signal comes."""
        return bool(self.caught_signals - _NO_HANDLER_OF_PYTHON_CODE)

    @property
    def age(self) -> float | None:
        """Seconds since it was started; None where that cannot be known."""
        with open("/proc/uptime") as file:
            return float(file.read().split()[0]) - self.started / os.sysconf("SC_CLK_TCK")

    @cached_property
    def image(self) -> tuple[int, bytes] | None:
        """Where the 16 random bytes lie that the kernel gives every program that it starts, and which they are.

        Equal in two processes: one was forked from the other, or both from a third, and neither has exec'd since.
        """
        with self._looking(), open(f"{self._folder}/auxv", "rb") as file:
            data = file.read()
        for kind, value in struct.iter_unpack("@LL", data[: len(data) // 16 * 16]):
            if kind == _AT_RANDOM and (found := self.read(value, 16)):
                return value, found
            if kind == _AT_NULL:
                break
        return None

    # Its threads.

    def tasks(self) -> list[Task]:
        """Its threads, the main one first; those that end while they are read are left out."""
        try:
            tids = sorted(map(int, os.listdir(f"{self._folder}/task")))
        except OSError:
            raise self._gone() from None
        found = [task for tid in tids if (task := self._task(tid))]
        if not found or self._stat()[19] != self.started or all(task.state in "ZX" for task in found):
            raise self._gone()
        return sorted(found, key=lambda task: task.tid != self.pid)

    def name_of(self, task: Task) -> str:
        """What a person calls one of its threads."""
        return "MainThread" if task.tid == self.pid else f"thread {task.tid} ({task.name})"

    def main_task(self) -> Task:
        """Its main thread."""
        task = self._task(self.pid)
        if not task or task.state in "ZX" or self._stat()[19] != self.started:
            raise self._gone()
        return task

    def _task(self, tid: int) -> Task | None:
        folder = f"{self._folder}/task/{tid}"
        try:
            numbers = fields(read(f"{folder}/stat"))
            told = status(f"{folder}/status")
            try:
                call, stack = _call(read(f"{folder}/syscall"))
            except PermissionError:  # the main thread has ended, others have not
                call, stack = None, 0
        except OSError:
            return None
        switches = int(told["voluntary_ctxt_switches"]) + int(told["nonvoluntary_ctxt_switches"])
        return Task(
            tid=tid,
            inner=_inner(told, tid),
            name=told["Name"],
            state=told["State"][:1],
            started=numbers[19],
            ticks=numbers[11] + numbers[12],
            switches=switches,
            call=call,
            stack=stack,
        )

    def tid_of(self, ident: int, tasks: Sequence[Task]) -> int | None:
        """The thread that Python (and pthread_self) calls `ident`; None if this process has no such thread.

        An ident of glibc's is the address of the thread's descriptor, and the kernel knows an address inside that:
        the thread's list of robust mutexes. `LookupError` where the kernel does not tell.
        """
        told = {task.tid: robust_list(task.tid) for task in tasks}
        if not all(told.values()):
            raise LookupError(ident)
        return next((tid for tid, head in told.items() if head and 0 <= head - ident < 4096), None)

    def robust_lists(self) -> list[int]:
        """Where its threads have their lists of robust mutexes: each in the memory that begins at the thread's ident."""
        try:
            tids = [int(name) for name in os.listdir(f"{self._folder}/task")]
        except OSError:
            raise self._gone() from None
        return [head for tid in tids if (head := robust_list(tid))]

    def descriptor(self, number: int) -> str:
        """What a descriptor is: a pipe, a socket, a terminal, a file."""
        try:
            target = os.readlink(f"{self._folder}/fd/{number}")
        except OSError:
            return f"descriptor {number}"
        kind, colon, _ = target.partition(":[")
        if colon:
            inode = int(target[len(kind) + 2 : -1])
            return (kind == "socket" and _connection(self.pid, inode)) or f"a {kind}"
        kind, colon, rest = target.partition("anon_inode:")
        return f"a terminal ({target})" if target.startswith("/dev/pts/") else rest.strip("[]") or target

    # Its memory.

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of its memory; none at all where it has no such memory."""
        try:
            data = os.pread(self._memory, size, address)
        except (OSError, OverflowError):
            return b""
        return data if len(data) == size else b""

    def regions(self) -> list[Region]:
        """Its mappings, in order of address."""
        with self._looking():
            lines = read(f"{self._folder}/maps").splitlines()
        return [_region(line) for line in lines]

    # How it is read.

    def _stat(self) -> list[int]:
        try:
            return fields(read(f"/proc/{self.pid}/stat"))
        except PermissionError:
            raise Forbidden(_what_to_allow(self.pid)) from None
        except OSError:
            raise self._gone() from None

    def _gone(self) -> Gone:
        known = hasattr(self, "started")
        if known:
            return Gone(f"process {self.pid} ended while it was being read")
        return Gone(f"there is no process {self.pid}; its id may be another inside a container than outside")

    @contextmanager
    def _looking(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise Forbidden(_what_to_allow(self.pid)) from None
        except OSError:
            raise self._gone() from None


def library_at(address: int, regions: Sequence[Region]) -> str:
    """The file whose variables lie at `address`: it is mapped there, or is the one that the zeroed memory follows."""
    previous = ""
    end = 0
    for region in regions:
        if region.path.startswith("/"):
            previous = region.path
        elif region.path or region.start != end:
            previous = ""
        end = region.end
        if region.start <= address < region.end:
            return previous
    return ""


def robust_list(tid: int) -> int | None:
    """The address of a thread's list of robust mutexes; None where the kernel does not tell."""
    number = _GET_ROBUST_LIST.get(platform.machine())
    head, size = ctypes.c_size_t(), ctypes.c_size_t()
    if number is None or _libc().syscall(number, tid, ctypes.byref(head), ctypes.byref(size)):
        return None
    return head.value or None


def pids() -> list[int]:
    """All processes that are to be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def has_memory(pid: int) -> bool:
    """Whether a process has not ended, and is not the kernel's own."""
    try:
        return fields(read(f"/proc/{pid}/stat"))[20] > 0  # vsize
    except OSError:
        return False


def children_of() -> dict[int, list[int]]:
    """The processes that each process has as children."""
    found: dict[int, list[int]] = {}
    for pid in pids():
        with suppress(OSError):
            found.setdefault(fields(read(f"/proc/{pid}/stat"))[1], []).append(pid)
    return found


def program_of(pid: int) -> str | None:
    """What a person would call the program that runs as `pid`, as its events do; None where that cannot be seen. A process that
    has given itself a title ("gunicorn: worker [shop]") is called by the title's first word."""
    try:
        words = read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
    except OSError:
        return None
    name = os.path.basename(words[0])
    if _INTERPRETER.match(name) and len(words) > 1:
        return _program_of_python(words)
    return re.split(r"[\s:@]", name.lstrip("[("), maxsplit=1)[0].rstrip("])") or None


def started(pid: int) -> int:
    """When a process was started, in clock ticks after the machine's start. OSError where there is none."""
    return fields(read(f"/proc/{pid}/stat"))[19]


def family(pid: int, without: Collection[int] = ()) -> list[int]:
    """`pid` and its descendants, as far as they have not been orphaned; without some, and theirs."""
    children = children_of()
    found = [pid]
    for one in found:
        found += (child for child in children.get(one, ()) if child not in without)
    return found


def read(path: str) -> str:
    """The content of a file of /proc."""
    with open(path, errors="replace") as file:
        return file.read()


def fields(stat: str) -> list[int]:
    """The fields of a `stat` file from the third on (proc(5)): [1] is the parent; the state, a letter, counts as 0."""
    _state, *rest = stat[stat.rindex(")") + 2 :].split()
    return [0, *map(int, rest)]


def status(path: str) -> dict[str, str]:
    """The lines of a `status` or `fdinfo` file by their names."""
    lines = (line.partition(":") for line in read(path).splitlines())
    return {name: value.strip() for name, _, value in lines}


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP socket as the kernel lists it (proc(5), /proc/net/tcp; net/ipv4/tcp_ipv4.c, get_tcp4_sock)."""

    words: Sequence[str]
    """Of its line: there may be a hundred thousand, of which one is looked for."""

    @property
    def inode(self) -> int:
        """0 while no process has accepted it."""
        return int(self.words[9])

    @property
    def local(self) -> str:
        return _address(self.words[1])

    @property
    def remote(self) -> str:
        return _address(self.words[2])

    @property
    def state(self) -> int:
        """Of net/tcp_states.h."""
        return int(self.words[3], 16)

    @property
    def unacknowledged(self) -> int:
        """Bytes that were written to it and that the other end's kernel has not confirmed."""
        return int(self.words[4].partition(":")[0], 16)

    @property
    def timer(self) -> int:
        """What the kernel waits for: 0 nothing, 4 room in the other end's buffer."""
        return int(self.words[5].partition(":")[0], 16)

    def may_be_other_end_of(self, other: Connection) -> bool:
        """Whether the ports are the other's, the other way round."""
        return self.words[1][-4:] == other.words[2][-4:] and self.words[2][-4:] == other.words[1][-4:]


def connections(pid: int) -> Iterator[Connection]:
    """The TCP sockets of the network namespace that a process is in."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in read(f"/proc/{pid}/net/{name}").splitlines()[1:]:
                yield Connection(line.split())


def _connection(pid: int, inode: int) -> str:
    """What a TCP socket is connected to, or listens on; "" where that is not seen."""
    found = next((one for one in connections(pid) if one.inode == inode), None)
    if found is None:
        return ""
    return f"TCP {found.local}" if found.state == _LISTENS else f"a TCP connection to {found.remote}"


def _address(word: str) -> str:
    """An address of /proc/net/tcp: each four bytes of it are a number in the machine's order."""
    host, _, port = word.partition(":")
    data = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    if len(data) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, data)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, data)}]:{int(port, 16)}"


def _inner(status: dict[str, str], outer: int) -> int:
    return int(status.get("NSpid", str(outer)).split()[-1])


def _call(line: str) -> tuple[Call | None, int]:
    """The content of a `syscall` file: the call, and the stack pointer."""
    words = line.split()
    if len(words) < 3:  # "running"
        return None, 0
    number, *values = int(words[0]), *(int(word, 16) for word in words[1:])
    if number < 0:
        return None, values[0]
    return make_call(number, tuple(values[:6])), values[6]


def make_call(number: int, arguments: tuple[int, ...]) -> Call:
    """A system call by its number on this machine."""
    entry = _calls().get(number, {"name": f"system call {number}", "words": f"is in system call {number}"})
    at = entry.get("timeout")
    value = arguments[at] & entry.get("mask", 2**64 - 1) if at is not None else 0
    endless = entry.get("endless", 0)
    timed = entry.get("timed", False) or (at is not None and value != endless)
    return Call(entry["name"], entry["words"], arguments, timed)


@cache
def _calls() -> dict[int, dict[str, Any]]:
    data = tomllib.loads(files(__package__).joinpath("syscalls.toml").read_text(encoding="utf-8"))
    return {call[platform.machine()]: call for call in data["call"] if platform.machine() in call}


def _region(line: str) -> Region:
    span, permissions, offset, device, inode, *path = line.split(maxsplit=5)
    start, _, end = span.partition("-")
    return Region(
        int(start, 16),
        int(end, 16),
        permissions,
        int(offset, 16),
        path[0] if path else "",
        f"{device} {inode}",
    )


def _what_to_allow(pid: int) -> str:
    """Why this process may not look at that one."""
    begin = f"not permitted to look at process {pid}"
    if not os.path.exists(f"/proc/{pid}"):
        return f"process {pid} ended while it was being read"
    # Not the owner of its files: those are root's where it is not dumpable.
    owner = int(status(f"/proc/{pid}/status")["Uid"].split()[0])
    if os.geteuid() not in (0, owner):
        return f"{begin}, which belongs to another user; run the doctor as root or as user {owner}"
    scope = yama.scope()
    if scope == 1 and not yama.has_ptrace():
        return (
            f"{begin}: Yama allows it for descendants only (kernel.yama.ptrace_scope is 1); {yama.what_to_allow()}; a program that is "
            "started by `forkproof run` is watched from within"
        )
    if os.geteuid() != 0 and scope == 2:
        return f"{begin}: Yama allows it to root only (kernel.yama.ptrace_scope is 2); run the doctor as root"
    if scope == 3:
        return f"{begin}: kernel.yama.ptrace_scope is 3, which forbids it to everybody until the machine restarts"
    if os.geteuid() == 0 and not yama.has_ptrace():
        return f"{begin}: root here lacks CAP_SYS_PTRACE; start the container with --cap-add=SYS_PTRACE"
    if os.geteuid() != 0:
        return f"{begin}: it has more privileges than the doctor, or is not dumpable; run the doctor as root"
    return f"{begin}: a security module (seccomp, SELinux, AppArmor) forbids it; see its log"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def supported() -> str | None:
    """Why the doctor cannot work on this system; None if it can."""
    if sys.platform != "linux":
        return f"the doctor reads /proc of Linux, and this is {sys.platform}"
    return None
