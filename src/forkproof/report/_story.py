"""What the events tell, put in order: processes, forks, what was held around each, who waits for what never comes, and who
uses a connection that another process has as well.

For the renderers that show a run as a whole. Processes are told apart by incarnation, because pids come back in a
long day, and what befell a child belongs to the fork that left it behind, even if that fork's own line was lost.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

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
from forkproof.report._words import (
    USES,
    connection,
    duration,
    had,
    is_had,
    is_machinery,
    number,
    output,
    place,
)

PYTHON, PROGRAM, NATIVE = "Python", "the program", "native code"
_PACKAGE = re.compile(r"/(?:site|dist)-packages/([^/]+?)(?:\.py|\.abi3\.so|\.so|$|/)")
_STANDARD = re.compile(r"/lib(?:64)?/python3\.\d+t?/(?!(?:site|dist)-packages/)|^<frozen ")


@dataclass(slots=True)
class Process:
    """One process: a pid between the fork that made it and its last word."""

    pid: int
    at: int
    """When it was born, or first heard of: microseconds since 1970."""
    parent: int | None = None
    """The index of the process that forked it."""
    born: Born | None = None


@dataclass(slots=True)
class Occasion:
    """A fork, and what came of it."""

    process: int
    at: int
    fork: Fork | None
    """None: its line was lost, or was never written; only what befell its child is known."""
    child: int | None = None
    hangs: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Standstill:
    """A thread that waits for what never comes, or came after all."""

    process: int
    since: int
    event: Hang
    until: int | None = None
    """When it went on after all."""


@dataclass(slots=True)
class Use:
    """A child's first use of a connection that another process has open as well."""

    process: int
    at: int
    event: SharedConnection


class Story:
    """Takes events in the order of their file; `close()` before it is read."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.occasions: list[Occasion] = []
        self.hangs: list[Standstill] = []
        self.shared: list[Use] = []
        self.doubled: list[DoubledOutput] = []
        self.faults: list[tuple[int, Fault]] = []
        self.first: int | None = None
        self.last: int | None = None
        self._living: dict[int, int] = {}
        self._children: dict[tuple[int, int], int] = {}

    def begin(self) -> None:
        """The events that follow are of another run: its pids are other processes."""
        self._living.clear()

    def take(self, event: Event) -> None:
        at = self._when(event.time)
        match event:
            case Born():
                parent = self._process(event.parent, at)
                self.processes.append(Process(event.pid, at, parent, event))
                self._living[event.pid] = self._children[parent, event.fork] = len(self.processes) - 1
            case Fork():
                self.occasions.append(Occasion(self._process(event.pid, at), at, event))
            case Hang():
                since = at - int(min(event.seconds, 1e9) * 1e6)
                process = self._process(event.pid, since)
                if self.processes[process].born:
                    since = max(since, self.processes[process].at)
                self.hangs.append(Standstill(process, since, event))
            case SharedConnection():
                self.shared.append(Use(self._process(event.pid, at), at, event))
            case DoubledOutput():
                self.doubled.append(event)
            case Resolved():
                known = self._living.get(event.pid)
                for hang in reversed(self.hangs):
                    same = hang.event.waits_for.what == event.what and hang.event.thread == event.thread
                    if hang.process == known and same and hang.until is None:
                        hang.until = at
                        break
            case Fault():
                self._process(event.pid, at)
                self.faults.append((at, event))

    def close(self) -> None:
        """No more events come: tell each fork its child and what befell that."""
        of: dict[tuple[int, int], Occasion] = {}
        for occasion in self.occasions:
            if occasion.fork is None or not occasion.fork.fork:
                continue
            key = occasion.process, occasion.fork.fork
            of[key] = occasion
            occasion.child = self._children.get(key)
            if occasion.child is None and occasion.fork.child is not None:
                occasion.child = self._unborn(occasion.fork.child, occasion)
        for index, hang in enumerate(self.hangs):
            self._occasion(of, hang, hang.since).hangs.append(index)
        for index, use in enumerate(self.shared):
            self._occasion(of, use, use.at).shared.append(index)
        self.occasions.sort(key=lambda occasion: occasion.at)

    # What it comes to.

    @property
    def forks(self) -> list[Fork]:
        return [occasion.fork for occasion in self.occasions if occasion.fork is not None]

    def hung(self) -> list[Hang]:
        """The hangs that have not resolved."""
        return [hang.event for hang in self.hangs if hang.until is None]

    def totals(self) -> list[tuple[str, str, str]]:
        """What was counted: the figure, of what, and the style that it is told in."""
        forks = self.forks
        refused = sum(fork.outcome == "refused" for fork in forks)
        at_risk = sum(fork.risk != "none" and fork.outcome != "refused" for fork in forks)
        waits = [fork.waited_ms for fork in forks if fork.waited_ms > 0]
        users = len({use.process for use in self.shared})
        hung = len({(hang.process) for hang in self.hangs if hang.until is None})
        rows = [
            (str(len(forks)), "fork" if len(forks) == 1 else "forks", ""),
            (str(at_risk), "at risk", "bad" if at_risk else "good"),
            (str(hung), "hung", "bad" if hung else "good"),
        ]
        if users:
            rows.append((str(users), "on a connection that another process has too", "bad"))
        if self.doubled:
            noun = "output" if len(self.doubled) == 1 else "outputs"
            rows.append((str(len(self.doubled)), f"{noun} written by more than one process", "bad"))
        if waits:
            times = (
                f"waited for a safe moment: median {duration(median(waits))}, longest {duration(max(waits))}"
            )
            rows.append((str(len(waits)), times, ""))
        if refused:
            rows.append((str(refused), "refused", "good"))
        repaired = sum(bool(fork.repaired) for fork in forks)
        if repaired:
            rows.append((str(repaired), "with something reset in the child", "doubt"))
        if self.faults:
            rows.append((str(len(self.faults)), "faults of forkproof's own", "bad"))
        return rows

    def sentence(self) -> str:
        """The one sentence that says why."""
        hung = self.hung()
        if hung:
            return _why_hung(hung)
        if self.shared:
            return _who_shares([use.event for use in self.shared])
        forks = [fork for fork in self.forks if fork.outcome != "refused"]
        remained = [_remaining(fork) for fork in forks if fork.risk != "none"]
        if remained:
            what, _, hazard = _commonest(hazard for hazards in remained for hazard in hazards)
            when = "the fork" if len(forks) == 1 else f"{len(remained)} of {len(forks)} forks"
            if hazard and hazard.thread and is_had(hazard):
                why = f"{_name(hazard)} {had(hazard)} {what}"
            else:
                why = f"{what or 'something'} stayed behind"
            return f"When {when} went ahead, {why}: a child that needs it waits for ever."
        if any(fork.outcome == "refused" for fork in self.forks):
            what, _, _ = _commonest(hazard for fork in self.forks for hazard in _remaining(fork))
            return f"Forks were refused because of {what or 'what was held'}; nothing happened."
        waits = [fork.waited_ms for fork in forks if fork.waited_ms > 0]
        if self.doubled:
            example = next((each for each in self.doubled if each.verdict == "proven"), self.doubled[0])
            likely = "" if example.verdict == "proven" else ", it seems,"
            by = f"by {example.writers} processes"
            return f"Output was written{likely} {by}: {output(example)}, which a fork at {place(example.where)} copied."
        if waits:
            what, _, _ = _commonest(hazard for fork in forks for hazard in fork.hazards if hazard.cleared)
            until = f", mostly for {what}" if what else ""
            each = "The fork" if len(waits) == 1 else f"{len(waits)} forks"
            return f"{each} waited {duration(median(waits))}{' at the median' * (len(waits) > 1)}{until}; then nothing was at risk."
        if any(fork.hazards for fork in forks):
            return "No fork was at risk; a child that asks threads for something which it does not have may wait for them."
        if forks:
            return (
                "Nothing was at risk."
                if len(forks) == 1
                else f"Nothing was at risk at any of {len(forks)} forks."
            )
        return "No fork was recorded."

    # How it is put together.

    def _when(self, time: str) -> int:
        """Microseconds since 1970. A time that is none counts as that of the line before."""
        try:
            at = int(datetime.fromisoformat(time).timestamp() * 1e6)
        except (ValueError, OverflowError):
            return self.last or 0
        self.first = at if self.first is None else min(self.first, at)
        self.last = at if self.last is None else max(self.last, at)
        return at

    def _process(self, pid: int, at: int) -> int:
        if pid not in self._living:
            self.processes.append(Process(pid, at))
            self._living[pid] = len(self.processes) - 1
        return self._living[pid]

    def _unborn(self, pid: int, occasion: Occasion) -> int:
        """The child that wrote no line of its birth."""
        index = self._living.get(pid)
        if index is None or self.processes[index].born:
            self.processes.append(Process(pid, occasion.at))
            index = len(self.processes) - 1
        self.processes[index].parent = occasion.process
        return index

    def _occasion(self, known: dict[tuple[int, int], Occasion], found: Standstill | Use, at: int) -> Occasion:
        """The fork that left this behind; one that is made up where its line is lost."""
        parent = self._parent(found)
        owner = found.process if parent is None else parent
        key = (~owner if parent is None else owner), found.event.fork or 0  # ~: no fork of its own
        if key not in known:
            known[key] = Occasion(owner, at, None, found.process)
            self.occasions.append(known[key])
        return known[key]

    def _parent(self, found: Standstill | Use) -> int | None:
        """The process whose fork left it behind: the parent, or the parent's parent (a daemon forks twice)."""
        process: int | None = found.process
        while process is not None:
            if self.processes[process].pid == found.event.parent:
                return process
            process = self.processes[process].parent
        return None if found.event.parent is None else self._living.get(found.event.parent)


def origin(frame: Frame) -> str:
    """Whose code a frame is: a package of site-packages by its name, `PYTHON`, or `PROGRAM`."""
    if found := _PACKAGE.search(frame.file):
        return found[1]
    standard = os.path.dirname(os.__file__) + os.sep
    if _STANDARD.search(frame.file) or frame.file.startswith(standard):
        return PYTHON
    return PROGRAM


def library(hazard: Hazard) -> str:
    """Whose code had it: the innermost that is not the standard library's."""
    frames = [frame for frame in (hazard.held_at, *hazard.stack) if frame and not is_machinery(frame)]
    names = [origin(frame) for frame in frames]
    return next((name for name in names if name != PYTHON), PYTHON if names else NATIVE)


def _remaining(fork: Fork) -> list[Hazard]:
    return [hazard for hazard in fork.hazards if hazard.counts and not hazard.cleared]


def _commonest(hazards: object) -> tuple[str, int, Hazard | None]:
    """What most of them are about, how many, and the first of these."""
    known: dict[str, Hazard] = {}
    counts: Counter[str] = Counter()
    for hazard in hazards:  # type: ignore[attr-defined]
        counts[hazard.what] += 1
        known.setdefault(hazard.what, hazard)
    if not counts:
        return "", 0, None
    what, count = counts.most_common(1)[0]
    return what, count, known[what]


def _name(hazard: Hazard) -> str:
    return f"thread {hazard.thread.name!r}" if hazard.thread else "nobody"


def _why_hung(hung: list[Hang]) -> str:
    what, _ = Counter(hang.waits_for.what for hang in hung).most_common(1)[0]
    example = next(hang for hang in hung if hang.waits_for.what == what)
    pids = {hang.pid for hang in hung if hang.waits_for.what == what}
    others = len({hang.pid for hang in hung} - pids)
    who = (
        f"Process {example.pid} hangs: it waits"
        if len(pids) == 1
        else f"{len(pids)} processes hang: they wait"
    )
    hazard = example.hazard
    if hazard and hazard.thread and is_had(hazard):
        when = "the fork" if len(pids) == 1 else "the forks"
        child = "the child does" if len(pids) == 1 else "the children do"
        why = f", which {_name(hazard)} {had(hazard)} at {when}; {child} not have that thread"
    elif hazard:
        why = ", which the fork did not bring along"
    else:
        why = " that never comes" if example.verdict == "proven" else ", and nothing says that it comes"
    more = (
        f" {number(others, 'other process', 'es')} {'hangs' if others == 1 else 'hang'} for another reason."
        if others
        else ""
    )
    return f"{who} for {what}{why}.{more}"


def _who_shares(uses: list[SharedConnection]) -> str:
    what, _ = Counter(connection(use.connection) for use in uses).most_common(1)[0]
    same = [use for use in uses if connection(use.connection) == what]
    first = next((use for use in same if use.verdict == "proven"), same[0])
    others = len({use.pid for use in uses} - {use.pid for use in same})
    pids = {use.pid for use in same}
    who = f"Process {first.pid} {USES[first.operation]}" if len(pids) == 1 else f"{len(pids)} processes use"
    whose = f"process {first.held_by}" if first.held_by is not None else "another process"
    has = "has" if first.verdict == "proven" else "may have"
    more = (
        f" {number(others, 'other process', 'es')} {'does' if others == 1 else 'do'} the like."
        if others
        else ""
    )
    return f"{who} {what}, which {whose} {has} open too: what was meant for one may reach the other.{more}"
