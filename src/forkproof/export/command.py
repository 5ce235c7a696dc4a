"""The command `forkproof export`: follows an events file, beside the program that writes it, and sends on what comes.

The file may come later, be rotated (moved away or emptied, a new one begun) or be written to by many processes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

from forkproof.export.base import ExportError, Exports
from forkproof.export.chosen import sinks
from forkproof.model import Event
from forkproof.report import EventLines, Pairing

_EVERY = 0.25
"""Seconds between two looks."""


def export(path: str, *, otel: bool, sentry: bool, from_start: bool, until_end: bool) -> int:
    """Export the events that come to `path`, those that it has already if `from_start`, until a signal comes, or the end of the
    file if `until_end`; the exit status. ExportError where that cannot be done."""
    service = os.path.basename(path).partition(".")[0] or "forkproof"
    exports = Exports(sys.stderr, sinks(service, otel=otel, sentry=sentry), patient=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        tail = Tail(path, from_start)
        exports.start()
        print(f"forkproof: exporting what comes to {path}", file=sys.stderr, flush=True)
        for event in follow(tail, lambda: ended.wait(_EVERY) or until_end or exports.has_failed):
            exports.show(event)
    except OSError as error:
        raise ExportError(f"cannot read {path!r}: {error.strerror}; check the path") from None
    finally:
        exports.finish()
    return 2 if exports.has_failed else 0


def follow(tail: Tail, pause: Callable[[], bool]) -> Iterator[Event]:
    """The events that are appended to the file, each fork told its child. `pause` is called whenever there are no more; at its
    first True the last are given."""
    pairing = Pairing()
    last = False
    while True:
        for event in tail.read():
            pairing.add(event)
        yield from pairing.ready(last=last)
        if last:
            return
        last = pause()


class Tail:
    """What is appended to a file, by its name, from the moment at which this is made."""

    def __init__(self, path: str, from_start: bool) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._lines = EventLines()
        self._open()
        if self._file is not None and not from_start:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> Iterator[Event]:
        if self._file is None:
            self._open()
        while self._file is not None:
            if os.fstat(self._file.fileno()).st_size < self._file.tell():
                self._file.seek(0)  # emptied
                self._lines = EventLines()
            replaced = (
                self._is_replaced()
            )  # asked first: who writes to it may still, until the name is another file's
            while data := self._file.read(1 << 20):
                yield from self._lines.feed(data)
            if not replaced:
                return
            yield from self._lines.close()
            self._file.close()
            self._file = None
            self._open()

    def _open(self) -> None:
        with suppress(FileNotFoundError):
            self._file = open(self._path, "rb")  # noqa: SIM115  # for as long as it is followed
            self._lines = EventLines()

    def _is_replaced(self) -> bool:
        assert self._file is not None
        with suppress(FileNotFoundError):
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        return False
