"""Output that is written twice: what a file or a MemoryHandler had in its buffer at a fork, and both processes wrote.

A buffer is memory, so a child has a copy of it. Most children never write that: they end by `os._exit()`, or exec. So nothing
is said at the fork. Each process remembers what was there (`_c/buffers.c` finds it), and sees before its next fork and at
its end whether it has written it; who is not the first to have done so tells.

A write is sure where the file says that it has come further, and, of the standard streams, where the interpreter is about to
flush them. What is left in another file when a process ends is written if the file is closed by then, and if anything goes
wrong there nobody hears of it: that makes the event `likely`. So does a binary file that is gone.

A `logging.handlers.MemoryHandler` keeps records. One of them that nobody had formatted shows by its `message` that its target has done so
since: then it is written, as it is where `logging.shutdown()` is about to hand it to a stream.

Not seen: what the forking thread does not have in a variable, a global or an attribute of `self`; a process that writes it and
then ends by `os._exit()` (unless it is the child, where calls can be led), by a signal or by exec; a file whose descriptor is another file
by the end. Nothing of what was written is read, kept or told: only how much it was.
"""

from __future__ import annotations

import atexit
import io
import os
import stat
import sys
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

    Tell = Callable[[dict[str, Any]], None]
    Where = Callable[[FrameType | None], dict[str, Any]]

STANDARD = (
    "flush before the fork (sys.stdout.flush(), print(..., flush=True)), or run python with -u; or end the child by "
    "os._exit(), without a flush"
)
RECORDS = (
    "flush the MemoryHandler before the fork, or make it in the process that logs; or clear its buffer in the child "
    "(os.register_at_fork), or end the child by os._exit()"
)
OTHER = (
    "flush the file before the fork, or open it in the process that writes it; or end the child by os._exit()"
)


class _Unflushed:
    """What one file had in its buffers at one fork."""

    def __init__(
        self, file: Any, raw: io.FileIO, state: tuple[Any, int, int], origin: int, fork: int
    ) -> None:
        self.buffered, self.bytes, self.position = weakref.ref(state[0]), state[1], state[2]
        self.file = weakref.ref(file, self._goes)
        self.gone_sure = False
        self.origin, self.fork = origin, fork
        self.fd = raw.fileno()
        self.identity = _identity(self.fd)
        self.name = raw.name if isinstance(raw.name, str) else None
        self.where: dict[str, Any] = {}

    @property
    def key(self) -> int:
        """The same in each process that has this in a buffer. (Numbers have the same hash everywhere.)"""
        return hash((self.origin, self.fork, self.fd, self.identity)) & (1 << 64) - 1

    def _goes(self, _: object) -> None:
        """A text file has closed the one below by now, which is still there."""
        from . import _native

        buffered = self.buffered()
        state = None if buffered is None else _native.buffer_state(buffered)
        self.gone_sure = state is not None and state[2] != self.position

    def written(self, *, at_end: bool) -> bool | None:
        """Whether this process has written it, or is about to: True if that is sure, False if not quite, None if it has not."""
        from . import _native

        file = self.file()
        state = None if file is None else _native.buffer_state(file)
        elsewhere = self.fd <= 2 and _identity(self.fd) != self.identity
        if elsewhere:
            return None
        if state is None:
            return self.gone_sure  # closed as it went, or detached: both write
        if state[2] != self.position:
            return True
        if state[1] < self.bytes:
            return False
        if not at_end or _identity(self.fd) != self.identity:
            return None
        return file is sys.stdout or file is sys.stderr

    def facts(self) -> dict[str, Any]:
        return {"file": self.name, "fd": self.fd, "bytes": self.bytes}

    @property
    def advice(self) -> str:
        return STANDARD if self.fd <= 2 else OTHER


class _Kept:
    """What a MemoryHandler had in its buffer at one fork, by a record that tells when it is written."""

    def __init__(self, handler: Any, record: Any, origin: int, fork: int) -> None:
        self.buffered = weakref.ref(handler)
        self.record, self.records = record, len(handler.buffer)
        self.origin, self.fork = origin, fork
        self.handler = id(handler)
        self.where: dict[str, Any] = {}

    @property
    def key(self) -> int:
        """The same in each process: a fork moves no object."""
        return hash((self.origin, self.fork, -1, self.handler)) & (1 << 64) - 1

    def written(self, *, at_end: bool) -> bool | None:
        """As for a file; never in doubt."""
        if "message" in vars(self.record):
            return True
        handler: Any = self.buffered()
        if not at_end or handler is None:
            return None
        target = handler.target
        goes_on = isinstance(target, sys.modules["logging"].StreamHandler) and not target.filters
        is_there = any(self.record is record for record in handler.buffer)
        return True if goes_on and handler.flushOnClose and is_there else None

    def facts(self) -> dict[str, Any]:
        return {"file": None, "fd": None, "bytes": None, "records": self.records}

    @property
    def advice(self) -> str:
        return RECORDS


_known: list[_Unflushed | _Kept] = []
_tell: Tell | None = None
_where: Where | None = None
_registered = False


def watch(on: bool, tell: Tell, where: Where) -> bool:
    """Watch later forks, or none; what is found goes to `tell`, as an event. False where it cannot be."""
    from . import _native

    global _tell, _where, _registered
    _known.clear()
    _tell, _where = tell, where
    if on:
        buffered = io.BufferedWriter(_Nowhere(), 512)
        text = io.TextIOWrapper(buffered, encoding="ascii")
        on = _native.watch_buffers(_at_fork, _at_exit_call, buffered, text)
    else:
        _native.watch_buffers(None, None, None, None)
    if on and not _registered:
        atexit.register(_at_end)  # what the program registers later runs before
    elif not on and _registered:
        atexit.unregister(_at_end)
    _registered = on
    return on


class _Nowhere(io.RawIOBase):
    """What files of our own write to while their layout is learnt; as a pipe, it has no position."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _at_fork(origin: int, fork: int, files: list[Any], in_child: bool) -> int:
    """In both processes, before anything else runs there. What the parent had written by now is not in the child's hands."""
    from . import _native

    _settle(count=not in_child)
    if in_child and not _registered:
        return 0
    known = {id(item.buffered()) for item in _known}
    for file in files:
        state = _native.buffer_state(file)
        raw = getattr(state[0], "raw", None) if state else None
        if state is None or id(state[0]) in known or type(raw) is not io.FileIO or raw.closed:
            continue
        item = _Unflushed(file, raw, state, origin, fork)
        if item.identity is not None and not _is_null(item.fd):
            item.where = _where(sys._getframe(1)) if _where else {}
            known.add(id(state[0]))
            _known.append(item)
    for handler, record in _keeping():
        if id(handler) not in known:
            kept = _Kept(handler, record, origin, fork)
            kept.where = _where(sys._getframe(1)) if _where else {}
            _known.append(kept)
    if in_child and _known:
        _native.lead_exit()
    return len(_known)


def _keeping() -> Iterator[tuple[Any, Any]]:
    """Handlers that keep records for another, each with one that nobody has formatted and that is no burden to keep."""
    kind = getattr(sys.modules.get("logging.handlers"), "MemoryHandler", None)
    handlers = [reference() for reference in list(getattr(sys.modules.get("logging"), "_handlerList", ()))]
    keeping = [
        h for h in handlers if kind and isinstance(h, kind) and type(h).flush is kind.flush and h.buffer
    ]
    for handler in keeping:
        others = [record for other in keeping if other is not handler for record in other.buffer]
        for record in handler.buffer:
            if _is_plain(record) and not any(record is other for other in others):
                yield handler, record
                break


def _is_plain(record: Any) -> bool:
    attributes = vars(record)
    args = attributes.get("args") or ()
    return (
        "message" not in attributes
        and not attributes.get("exc_info")
        and type(args) is tuple
        and all(
            type(value) in (str, int, float, bool, type(None)) for value in (attributes.get("msg"), *args)
        )
    )


def _at_end() -> None:
    _settle(at_end=True)
    _known.clear()


def _at_exit_call() -> None:
    _settle()


def _settle(*, at_end: bool = False, count: bool = True) -> None:
    """Let go of what has been written."""
    for item in _known[:]:
        sure = item.written(at_end=at_end)
        if sure is not None:
            _known.remove(item)
            if count:
                _count(item, sure)


def _count(item: _Unflushed | _Kept, sure: bool) -> None:
    from . import _native
    from ._events import now

    writers, proven, news = _native.count_writer(item.key, sure)
    if not news or _tell is None:
        return
    _tell(
        {
            "v": 1,
            "event": "doubled-output",
            "time": now(),
            "pid": os.getpid(),
            "parent": item.origin,
            "fork": item.fork,
            "where": item.where,
            **item.facts(),
            "writers": writers,
            "verdict": "proven" if proven else "likely",
            "advice": item.advice,
        }
    )


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_null(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
