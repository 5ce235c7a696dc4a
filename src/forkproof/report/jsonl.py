"""Event lines back into events, whatever has become of the file on the way.

Many processes write to one file, one of them may have been killed while writing, and the file may not be ours
at all. So nothing in a line is trusted, nothing raises, and every line that gave no event is accounted for.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from forkproof.model import Born, Event, Fork, event_from_json

_LONGEST = 1 << 24
"""No line of ours is longer than this; what is, is not kept."""

_BEGINNING = b'{"v":'
"""Of each of our lines, and of nothing in them: quotes within are escaped."""


class EventLines:
    """Events from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines = 0
        self._left_out: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._endless = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events of the lines that `data` completes; the piece after the last newline is kept."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._endless:  # what has come now is only its end
                self._endless = False
            else:
                yield from self._read(line, "damaged")
        if len(self._rest) > _LONGEST:
            if not self._endless:
                self._lines += 1
                self._leave_out("damaged", "has no end")
            self._endless, self._rest = True, b""

    def close(self) -> Iterator[Event]:
        """No more bytes come: the last line may lack its newline, or its end."""
        rest, self._rest = self._rest, b""
        if rest and not self._endless:
            yield from self._read(rest, "cut off")

    def left_out(self) -> str | None:
        """A sentence on the lines that gave no event, with the first of each sort; None if there are none."""
        if not self._left_out:
            return None
        sorts = (f"{count} {sort} ({self._first[sort]})" for sort, count in self._left_out.items())
        total = self._left_out.total()
        return f"{total} of {self._lines} lines left out: {', '.join(sorts)}"

    def _read(self, line: bytes, damage: str) -> Iterator[Event]:
        self._lines += 1
        if not line.strip():
            return
        try:
            yield _event(line)
        except _NoEvent as none:
            self._leave_out(none.sort or damage, none.why)
            # A process may have been cut off in its line, by a full disk or a signal, and another gone on in the middle of it.
            for piece in line.split(_BEGINNING)[1:] if line.rfind(_BEGINNING) > 0 else ():
                with suppress(_NoEvent):
                    yield _event(_BEGINNING + piece)

    def _leave_out(self, sort: str, why: str) -> None:
        self._left_out[sort] += 1
        self._first.setdefault(sort, f"line {self._lines} {why}")


class Pairing:
    """Tells each fork its child.

    The parent's at-fork hooks are not told the child's pid, so a `fork` line may lack it, and the child's
    own `born` line has it, a moment earlier or later. Events leave in the order in which they came; a fork
    without its child, and what came after it, is held back for `patience` calls of `ready`, no longer.
    """

    def __init__(self, patience: int = 4) -> None:
        self._patience = patience
        self._round = 0
        self._queue: deque[tuple[int, Event]] = deque()
        self._children: dict[tuple[int, int], int] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Born):
            self._children[event.parent, event.fork] = event.pid
        self._queue.append((self._round, event))

    def ready(self, *, last: bool = False) -> Iterator[Event]:
        """The events that need not wait any longer; all of them if this is the `last` call."""
        self._round += 1
        while self._queue:
            came, event = self._queue[0]
            if isinstance(event, Fork):
                child = self._children.pop((event.pid, event.fork), None)
                if event.child is None and child is not None:
                    event = replace(event, child=child)
                elif event.child is None and not last and self._round - came <= self._patience:
                    return
            self._queue.popleft()
            yield event


def events_in(file: io.BufferedReader, note: Callable[[str], None]) -> Iterator[Event]:
    """The events in a file, plain or gzip, each fork told its child; `note` is called with what could not be read."""
    lines, pairing = EventLines(), Pairing()
    try:
        with _plain(file) as plain:
            while data := plain.read1(1 << 20):  # what there is, before the place where it ends
                for event in lines.feed(data):
                    pairing.add(event)
    except EOFError:
        note("the compressed file was cut off; what came before was read")
    except (zlib.error, gzip.BadGzipFile):
        note("the compressed file is damaged; what came before the damage was read")
    except OSError as error:
        note(f"could not be read to its end: {error.strerror or error}")
    for event in lines.close():
        pairing.add(event)
    yield from pairing.ready(last=True)
    if left_out := lines.left_out():
        note(left_out)


class _NoEvent(Exception):
    def __init__(self, sort: str | None, why: str) -> None:
        super().__init__(why)
        self.sort, self.why = sort, why


def _event(line: bytes) -> Event:
    try:
        data = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _NoEvent(None, "is not JSON") from None
    if not isinstance(data, dict) or "v" not in data or "event" not in data:
        raise _NoEvent("foreign", "is not an event of forkproof")
    try:
        event = event_from_json(data)
    except ValueError as error:
        raise _NoEvent("damaged", str(error)) from None
    if event is None:
        raise _NoEvent("unknown", "is an event of another version of forkproof")
    return event


def _plain(file: io.BufferedReader) -> io.BufferedIOBase:
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
