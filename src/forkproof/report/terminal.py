"""The report that a person reads while the program runs: in each paragraph the place, the reason, the fix.

Says nothing when there is nothing to say. What recurs at later forks is shown once, then counted (one line
at 10, 100, 1000, ... times), and the closing summary has the exact totals. Colours (rich) only where a
person watches; everywhere else plain text, so that the report of a job reads the same in its log.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar

from forkproof.model import (
    Born,
    DoubledOutput,
    Event,
    Fault,
    Fork,
    Frame,
    Hang,
    Hazard,
    Resolved,
    SharedConnection,
)
from forkproof.report._text import Segment, clean, cut, wrap
from forkproof.report._words import (
    PROOFS,
    USES,
    connection,
    doubling,
    duration,
    ending,
    had,
    number,
    output,
    place,
    sharing,
    source_line,
    trimmed,
    verdict,
)
from forkproof.report.base import Renderer

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"bad": "bold red", "doubt": "bold yellow", "good": "bold green", "code": "cyan", "dim": "dim"}

_Key = tuple[str, int | None, str, str, bool]
_Told = TypeVar("_Told")


class Terminal(Renderer):
    """Paragraphs for each fork that was at risk or waited, and for each hang.

    `always` prints the closing summary even of a run with nothing to say (for a report that was asked for).
    """

    def __init__(self, stream: TextIO, *, width: int | None = None, always: bool = False) -> None:
        super().__init__(stream)
        self._width = within(width or width_of(stream))
        self._console = _console(stream, self._width)
        unicode = _encodes(stream, "→│…")
        self._arrow, self._bar, self._dots = ("→", "│", "…") if unicode else ("->", "|", "...")
        self._always = always
        self._lines: list[list[Segment]] = []
        self._notes: list[str] = []
        self._seen: Counter[_Key] = Counter()
        self._shared: Counter[tuple[tuple[Frame, ...], str | None, str]] = Counter()
        self._doubled: Counter[tuple[Frame, str | None, int | None]] = Counter()
        self._repairs: set[str] = set()
        self._repaired: set[tuple[int, int]] = set()
        self._forks = self._at_risk = self._refused = self._hangs = self._faults = 0
        self._waits = array("d")

    def show(self, event: Event) -> None:
        match event:
            case Fork():
                self._count(event)
                self._fork(event)
            case Hang():
                self._hangs += 1
                self._hang(event)
            case SharedConnection():
                self._shared_connection(event)
            case DoubledOutput():
                self._doubled_output(event)
            case Resolved():
                self._hangs = max(self._hangs - 1, 0)
                who = clean(event.thread.name, 100)
                self._say((f"forkproof: process {event.pid}: ", ""), (f"{who} goes on after all", "good"))
                self._say((f"it no longer waits for {clean(event.what)}", "dim"), indent=2)
            case Fault():
                self._faults += 1
                message = f"forkproof: a fault of its own turned it off in process {event.pid}: "
                self._say((message, "bad"), (clean(event.message), ""))
            case Born():
                self._repair(event.parent, event.fork, event.repaired, f"forkproof: child {event.pid} ")
        self._flush()

    def note(self, text: str) -> None:
        self._notes.append(text)

    def finish(self) -> None:
        unusual = (
            self._seen
            or self._waits
            or self._at_risk
            or self._shared
            or self._doubled
            or self._hangs
            or self._faults
        )
        if self._always or unusual:
            self._summary()
        for note in self._notes:
            self._say(("forkproof: ", ""), (clean(note, 1000), "doubt"))
        self._flush()

    # What is said.

    def _count(self, fork: Fork) -> None:
        self._forks += 1
        self._refused += fork.outcome == "refused"
        self._at_risk += fork.risk != "none" and fork.outcome != "refused"
        if fork.waited_ms > 0:
            self._waits.append(fork.waited_ms)

    def _fork(self, fork: Fork) -> None:
        new = []
        seen = _grouped(fork.hazards)
        for same in seen:
            key = fork.where.file, fork.where.line, same[0].kind, same[0].what, same[0].cleared
            what = f"{place(fork.where)}: {clean(same[0].what)}"
            if not self._recurs(self._seen, key, f"{what}, as above, at", "forks now"):
                new.append(same)
        if not new and (fork.hazards or fork.risk == "none"):
            return
        self._headline(fork)
        together: dict[object, list[list[Hazard]]] = {}
        for same in new:
            together.setdefault((same[0].thread, same[0].stack, same[0].cleared), []).append(same)
        for groups in together.values():
            self._hazards(fork, groups)
        if known := len(seen) - len(new):
            self._say((f"and {number(known, 'hazard')} shown at an earlier fork", "dim"), indent=2)
        self._repair(fork.pid, fork.fork, fork.repaired, "  ")
        if fork.note:
            self._say(("note: ", "dim"), (clean(fork.note), ""), indent=2)
        self._say()

    def _headline(self, fork: Fork) -> None:
        child = f" {self._arrow} {fork.child}" if fork.child is not None else ""
        which = f" {fork.fork}" if fork.fork else ""
        who = f"fork{which} ({fork.pid}{child}) "
        self._say(("forkproof: ", ""), (place(fork.where), "bold"), (f": {who}", ""), verdict(fork))
        self._source(fork.where, indent=4)

    def _hazards(self, fork: Fork, groups: Sequence[Sequence[Hazard]]) -> None:
        """What one thread had where it stood. A group is one hazard: the threads that had it or wanted it."""
        first = groups[0][0]
        for same in groups:
            hazard = same[0]
            style = "dim" if hazard.cleared else "bad" if hazard.certainty == "certain" else "doubt"
            self._say(*_reason(hazard, style), indent=2)
            if len(same) > 1:
                others = [clean(other.thread.name, 60) for other in same[1:4] if other.thread]
                more = len(same) - 1 - len(others)
                names = ", ".join(others) + (f" and {more} more" if more else "")
                self._say((f"the same with {names}", ""), indent=4)
            if hazard.held_at and hazard.held_at not in hazard.stack:
                self._say(("taken at ", "dim"), (place(hazard.held_at), ""), indent=4)
                self._source(hazard.held_at, indent=8)
        self._stack(first.stack)
        if first.counts:
            self._say(("ended: ", "dim"), (ending(fork, first), ""), indent=4)
        for advice in dict.fromkeys(same[0].advice for same in groups):
            if advice:
                self._say(("help: ", "good"), (clean(advice), ""), indent=4)

    def _repair(self, pid: int, fork: int, repaired: Iterable[str], margin: str) -> None:
        for what in repaired:
            self._repaired.add((pid, fork))
            if what not in self._repairs:
                self._repairs.add(what)
                self._say((margin, ""), ("repaired: ", "good"), (clean(what), ""))

    def _hang(self, hang: Hang) -> None:
        stack = hang.waits_for.stack
        innermost = next((frame for frame in trimmed(stack) if frame and frame.line is not None), None)
        innermost = innermost or next(iter(stack), None)
        where = place(innermost) if innermost else "unknown place"
        of = "" if hang.parent is None else f" (fork {hang.fork or '?'} of {hang.parent})"
        who = f": process {hang.pid}{of} "
        still = f"hangs: {clean(hang.thread.name)} has stood still for {hang.seconds:g} s"
        self._say(("forkproof: ", ""), (where, "bold"), (who, ""), (still, "bad"))
        self._say(("waits for: ", "bad"), (clean(hang.waits_for.what), ""), indent=2)
        how = f"{hang.verdict} (by {hang.proof})" if hang.proof else hang.verdict
        if hang.hazard:
            when = "at the fork, " if hang.hazard.counts else ""
            self._say((f"{how}: {when}", "doubt"), *_reason(hang.hazard, "bad"), indent=2)
        else:
            self._say((f"{how}: ", "doubt"), (PROOFS[hang.proof], ""), indent=2)
        if hang.advice:
            self._say(("help: ", "good"), (clean(hang.advice), ""), indent=2)
        if hang.note:
            self._say(("note: ", "dim"), (clean(hang.note), ""), indent=2)
        self._say(("it waits", "dim"), indent=2)
        self._stack(hang.waits_for.stack)
        if hang.hazard and hang.hazard.stack:
            self._say(("at the fork, the other thread stood", "dim"), indent=2)
            self._stack(hang.hazard.stack)
        self._say()

    def _recurs(self, counts: Counter[_Told], key: _Told, what: str, how_often: str) -> bool:
        """Count it; if it was told before, say at each milestone how often it has come."""
        counts[key] += 1
        if _is_milestone(counts[key]):
            self._say((f"forkproof: {what} {counts[key]} {how_often}", "dim"))
        return counts[key] > 1

    def _shared_connection(self, shared: SharedConnection) -> None:
        """One paragraph for each place and peer; what recurs is counted."""
        key = shared.stack[:1], shared.connection.peer, shared.operation
        if self._recurs(self._shared, key, "shared connection, as above, in", "processes now"):
            return
        known = next(
            (frame for frame in shared.stack if frame.line), shared.stack[0] if shared.stack else None
        )
        spot = place(known) if known else "unknown place"
        who = f": process {shared.pid} (fork {shared.fork} of {shared.parent}) "
        did = f"{USES[shared.operation]} a connection that it shares with another process"
        self._say(("forkproof: ", ""), (spot, "bold"), (who, ""), (did, "bad"))
        what = clean(connection(shared.connection))
        self._say((clean(shared.thread.name, 100), "bold"), (" used ", ""), (what, "bold"), indent=2)
        how = f"{shared.verdict} (by {shared.proof}): " if shared.proof else f"{shared.verdict}: "
        self._say((how, "doubt"), (sharing(shared), ""), indent=2)
        self._stack(shared.stack)
        if shared.advice:
            self._say(("help: ", "good"), (clean(shared.advice), ""), indent=2)
        self._say()

    def _doubled_output(self, doubled: DoubledOutput) -> None:
        """One paragraph for each file and place that forks; what recurs is counted."""
        key = doubled.where, doubled.file, doubled.fd
        if self._recurs(self._doubled, key, "output written twice, as above,", "times now"):
            return
        who = f": {clean(output(doubled))}: "
        did = "written twice" if doubled.writers == 2 else f"written {doubled.writers} times"
        self._say(("forkproof: ", ""), (place(doubled.where), "bold"), (who, ""), (did, "bad"))
        self._source(doubled.where, indent=4)
        self._say((f"{doubled.verdict}: ", "doubt"), (doubling(doubled), ""), indent=2)
        if doubled.advice:
            self._say(("help: ", "good"), (clean(doubled.advice), ""), indent=2)
        self._say()

    def _stack(self, stack: Sequence[Frame]) -> None:
        for frame in trimmed(stack):
            if frame is None:
                self._say((self._dots, "dim"), indent=4)
            else:
                self._say(("at ", "dim"), (place(frame), ""), indent=4)
                self._source(frame, indent=8)

    def _source(self, frame: Frame, *, indent: int) -> None:
        if line := source_line(frame):
            gutter = f"{frame.line} {self._bar} "
            line = cut(line, self._width - indent - len(gutter), self._dots)
            self._say((gutter, "dim"), (line, "code"), indent=indent)

    def _summary(self) -> None:
        said = [f"{self._at_risk} at risk" if self._at_risk else "none at risk"] if self._forks else []
        if self._refused:
            said.append(f"{self._refused} refused")
        if self._waits:
            times = f"median {duration(median(self._waits))}, max {duration(max(self._waits))}"
            said.append(f"{len(self._waits)} waited ({times})")
        if self._repaired:
            said.append(f"{len(self._repaired)} repaired")
        if self._shared:
            said.append(f"{number(self._shared.total(), 'shared connection')} used")
        if self._doubled:
            said.append(f"{number(self._doubled.total(), 'output')} written twice")
        if self._hangs:
            said.append(f"{self._hangs} hung")
        if self._faults:
            said.append(f"forkproof failed in {number(self._faults, 'process', 'es')}")
        bad = self._at_risk or self._shared or self._doubled or self._hangs or self._faults
        totals = [number(self._forks, "fork"), *said]
        self._say((f"forkproof: {', '.join(totals)}", "bad" if bad else "good"))
        often = [(key, count) for key, count in self._seen.most_common(3) if count > 1]
        if often:
            rest = sum(count > 1 for count in self._seen.values()) - len(often)
            items = [f"{clean(key[3], 80)} ({count} forks)" for key, count in often]
            self._say((f"most often: {', '.join(items)}{f', and {rest} more' if rest else ''}", ""), indent=2)

    # How it gets to the stream.

    def _say(self, *segments: Segment, indent: int = 0) -> None:
        self._lines += wrap(segments, self._width, indent, 2) if segments else [[]]

    def _flush(self) -> None:
        """Write what was said in one piece, so that it does not mix with what the program writes."""
        if not self._lines:
            return
        if self._console:
            from rich.text import Text

            with self._console.capture() as capture:
                for line in self._lines:
                    text = Text.assemble(*((piece, _COLOURS.get(style, style)) for piece, style in line))
                    self._console.print(text, soft_wrap=True)
            written = capture.get()
        else:
            written = "".join("".join(piece for piece, _ in line).rstrip() + "\n" for line in self._lines)
        self._lines.clear()
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(written.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()


def _grouped(hazards: Iterable[Hazard]) -> list[list[Hazard]]:
    """Hazards that differ only in the thread, together: first what remained, and who holds it for certain."""
    groups: dict[tuple[str, str, bool], list[Hazard]] = {}
    for hazard in sorted(hazards, key=_weight):
        groups.setdefault((hazard.kind, hazard.what, hazard.cleared), []).append(hazard)
    return list(groups.values())


def _weight(hazard: Hazard) -> tuple[bool, bool, bool]:
    return hazard.cleared, hazard.certainty != "certain", hazard.state == "acquiring"


def _reason(hazard: Hazard, style: str) -> list[Segment]:
    verb = had(hazard)
    what = clean(hazard.what)
    if not hazard.thread:
        return [(what, "bold"), (" ", ""), (verb, style)]
    return [(clean(hazard.thread.name, 100), "bold"), (" ", ""), (verb, style), (": ", ""), (what, "bold")]


def _is_milestone(count: int) -> bool:
    return count >= 10 and count == 10 ** (len(str(count)) - 1)


def width_of(stream: TextIO) -> int:
    if not stream.isatty():
        return 100
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def within(width: int) -> int:
    """`width` as it is used: not so narrow that nothing fits, not so wide that no eye finds the next line."""
    return min(max(width, 60), 200)


def is_coloured(stream: TextIO) -> bool:
    """Whether a person watches who wants colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return stream.isatty() and not plain


def console(stream: TextIO) -> Console:
    """For tables: as wide and as coloured as the other reports. Needs rich."""
    from rich.console import Console

    colours: Literal["auto"] | None = "auto" if is_coloured(stream) else None
    return Console(
        file=stream, width=within(width_of(stream)), color_system=colours, highlight=False, soft_wrap=False
    )


def _console(stream: TextIO, width: int) -> Console | None:
    """A rich console where a person watches and rich is there."""
    if not is_coloured(stream):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True
