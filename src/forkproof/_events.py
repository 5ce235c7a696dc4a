"""Event lines: one JSON object a line, each written with one `write`, so that many processes can share the file.

Nothing here raises into the program. A line that cannot be written (the disk is full, the file is gone) is lost and
counted; the program goes on.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from _json import encode_basestring as _quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_SAY_WHENCE = ("fork", "hang")
"""Events that are counted where the files of many programs and hosts come together."""


class Writer:
    """Appends to one file, in this process and in those forked from it.

    A daemonising child closes every descriptor and the numbers come back as other files: before each line it is made
    sure that the descriptor still is the events file, and it is opened again if not.
    """

    def __init__(self, path: str | os.PathLike[str], program: str | None = None) -> None:
        """`program` is whose events these are that do not say it; None: this process's. Raises OSError where the file cannot be opened for
        appending."""
        self._origin = {"host": os.uname().nodename, "program": program or program_of(sys.orig_argv)}
        self.path = os.path.abspath(os.fspath(path))
        self.lost = 0
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._torn = False  # the disk was full in the middle of a line
        self.on_change: Callable[[], None] | None = None
        """Called when the file is open under another number, or there is half a line in it."""
        self._open()

    def _open(self) -> None:
        low = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Out of the way: a program may count on the number that its next file gets.
            self._fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 200)
        except OSError:
            self._fd = low
        else:
            os.close(low)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)

    def _is_still_ours(self) -> bool:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def write(self, event: dict[str, Any]) -> None:
        if event.get("event") in _SAY_WHENCE:
            event = {**event, **self._origin, **event}
        line = (_encoded(event) + "\n").encode("utf-8", "backslashreplace")
        try:
            if not self._is_still_ours():
                self._open()
                self._changed()
            if self._torn:
                line = b"\n" + line  # what came of the last one ends here, and this one is whole
            written = os.write(self._fd, line)
            self._torn = False
            if 0 < written < len(line):
                self.tear()
            else:
                self.lost += written != len(line)
        except OSError:
            self.lost += 1

    def tear(self) -> None:
        """Half a line was written: the next one begins with an end of line."""
        self._torn = True
        self.lost += 1
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def plainly(self, end: dict[str, Any]) -> tuple[int, int, int, bytes, Callable[[], None]] | None:
        """For the extension (`set_lines`): the file, and with `end` what stands at the end of each fork's line. None if there is
        half a line in it."""
        if self._torn or self._identity is None:
            return None
        text = _encoded({**end, **self._origin})[1:] + "\n"
        return self._fd, *self._identity, text.encode("utf-8", "backslashreplace"), self.tear

    def close(self) -> None:
        if self._is_still_ours():
            os.close(self._fd)
        self._fd = -1


def program_of(line: list[str]) -> str:
    """What a person would call the program that python was started with by `line`; none of its arguments."""
    rest = iter(line[1:])
    for argument in rest:
        if argument[:2] == "-m":
            return argument[2:] or next(rest, "?")
        if argument[:2] == "-c" or argument == "-":
            return argument[:2]
        if argument in ("-W", "-X", "--check-hash-based-pycs"):
            next(rest, None)
        elif argument[:1] != "-":
            return os.path.basename(argument.rstrip("/"))
    return "?"


def _encoded(value: Any) -> str:
    """JSON, by the C half of the json module: the other half imports `re`, and an import that the program would have made
    itself, perhaps in a thread and across a fork, is not to be made for it."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{_encoded(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(_encoded, value)) + "]"


def now() -> str:
    """The time as RFC 3339 in UTC with microseconds. (No datetime: importing it late would be an import at a fork.)"""
    seconds = time.time()
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e6):06d}Z"
