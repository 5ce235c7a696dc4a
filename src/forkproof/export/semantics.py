"""Events in the words of OpenTelemetry's semantic conventions: names, units, attributes and sentences.

Names that the conventions have (`process.pid`, `thread.name`, `code.file.path`, `code.stacktrace`, ...: semantic conventions 1.33 and
later) are theirs; what they have no name for is in the namespace `forkproof`. Units are UCUM, as theirs. What goes out is what the events
have, without what looks like a credential; an event has no value of a variable in it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forkproof.model import DoubledOutput, Fork, Frame, Hang, Hazard, SharedConnection
from forkproof.report._text import clean
from forkproof.report._words import doubling, had, is_machinery, number, output

SCOPE = "forkproof"

Value = str | bool | int | float | list[str]
Attributes = dict[str, Value]

DEEPEST = 50
"""Frames of a stack, the innermost, that are sent."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    description: str


FORKS = Metric("forkproof.forks", "{fork}", "Forks, by how they ended.")
AT_RISK = Metric("forkproof.forks_at_risk", "{fork}", "Forks that went ahead at risk, by the kind of hazard.")
WAIT = Metric("forkproof.fork.wait.duration", "s", "How long forks were held back that had to wait.")
WAITED = Metric("forkproof.fork.wait.time", "s", "For how long forks were held back, all together.")
REPAIRS = Metric("forkproof.repairs", "{repair}", "What children reset because it could not be waited for.")
HANGS = Metric("forkproof.hangs", "{hang}", "Threads that were found to hang, by verdict.")
SHARED = Metric("forkproof.shared_connections", "{connection}", "Connections that two processes use.")
DOUBLED = Metric("forkproof.doubled_outputs", "{output}", "Output that more than one process has written.")
WAIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


def origin(event: Fork | Hang) -> Attributes:
    """Whose event it is, as far as it says."""
    said: Attributes = {}
    if event.host:
        said["host.name"] = clean(event.host, 255)
    if event.program:
        said["forkproof.program"] = clean(event.program, 255)
    return said


def kinds_at_risk(fork: Fork) -> list[str]:
    """The kinds of hazard that remained when the fork went ahead."""
    if fork.outcome == "refused":
        return []
    return sorted({hazard.kind for hazard in _remaining(fork)})


def fork(event: Fork) -> Attributes:
    """What is said of a fork."""
    said: Attributes = {
        **origin(event),
        "process.pid": event.pid,
        "forkproof.fork.number": event.fork,
        "forkproof.fork.risk": event.risk,
        "forkproof.fork.outcome": event.outcome or "clear",
        "forkproof.fork.wait.duration": event.waited_ms / 1000,
        **_place(event.where),
    }
    if event.child is not None:
        said["forkproof.fork.child_pid"] = event.child
    # What was there when it went ahead, else what it has waited for.
    if shown := _remaining(event) or [hazard for hazard in event.hazards if hazard.counts]:
        said |= _hazard(shown[0])
        said["forkproof.hazards"] = [clean(f"{one.kind}: {one.what}") for one in shown[:20]]
    return said


def hang(event: Hang) -> Attributes:
    """What is said of a hang: with the stack of the thread that waits, and that of the one that has what it waits for."""
    said: Attributes = {
        **origin(event),
        "process.pid": event.pid,
        **_thread(event.thread.name, event.thread.native_id),
        "forkproof.hang.duration": event.seconds,
        "forkproof.hang.verdict": event.verdict,
        "forkproof.waits_for.kind": event.waits_for.kind,
        "forkproof.waits_for.what": clean(event.waits_for.what),
        "code.stacktrace": stacktrace(event.waits_for.stack),
        "forkproof.advice": clean(event.advice),
    }
    if event.parent is not None:
        said["process.parent_pid"] = event.parent
    if event.fork is not None:
        said["forkproof.fork.number"] = event.fork
    if event.proof:
        said["forkproof.hang.proof"] = event.proof
    if where := innermost(event.waits_for.stack):
        said |= _place(where)
    if event.hazard:
        said |= _hazard(event.hazard)
    if event.note:
        said["forkproof.note"] = clean(event.note)
    return said


def shared(event: SharedConnection) -> Attributes:
    """What is said of a connection that two processes use; not where it leads to."""
    said: Attributes = {
        "process.pid": event.pid,
        "process.parent_pid": event.parent,
        "forkproof.fork.number": event.fork,
        **_thread(event.thread.name, event.thread.native_id),
        "network.io.direction": "receive" if event.operation == "read" else "transmit",
        "forkproof.verdict": event.verdict,
        "code.stacktrace": stacktrace(event.stack),
        "forkproof.advice": clean(event.advice),
    }
    if event.connection.kind in ("tcp", "unix", "pipe"):
        said["network.transport"] = event.connection.kind
    if event.connection.library:
        said["forkproof.connection.library"] = event.connection.library
    return said


def doubled(event: DoubledOutput) -> Attributes:
    """What is said of output that more than one process has written: of which file and how much, and nothing of what it was."""
    size = {"forkproof.output.size": event.bytes, "forkproof.output.records": event.records}
    said: Attributes = {
        "process.pid": event.pid,
        "process.parent_pid": event.parent,
        "forkproof.fork.number": event.fork,
        "forkproof.output.writers": event.writers,
        "forkproof.verdict": event.verdict,
        "forkproof.advice": clean(event.advice),
        **{name: number for name, number in size.items() if number is not None},
        **_place(event.where),
    }
    return said if event.file is None else {**said, "file.path": clean(event.file)}


def doubled_sentence(event: DoubledOutput) -> str:
    return clean(f"{output(event)}: {doubling(event)} [{event.verdict}]. {event.advice}")


def fork_sentence(event: Fork) -> str:
    place = f"{event.where.file}:{event.where.line or '?'}"
    remaining = _remaining(event)
    if not remaining:
        return clean(f"fork at {place} waited {event.waited_ms / 1000:.3g} s, then nothing was at risk")
    first = remaining[0]
    more = f", and {number(len(remaining) - 1, 'more')}" if len(remaining) > 1 else ""
    how = "was refused" if event.outcome == "refused" else "went ahead at risk"
    return clean(f"fork at {place} {how}: {_had(first)}{more}. {first.advice}")


def hang_title(event: Hang) -> str:
    """The same for the same thing: without ids, and without the time."""
    return clean(f"process hangs after a fork: {event.thread.name} waits for {event.waits_for.what}")


def hang_sentence(event: Hang) -> str:
    why = f"; {_had(event.hazard)} in the process that forked" if event.hazard else ""
    text = f"process {event.pid} hangs: {event.thread.name} has waited {event.seconds:g} s for {event.waits_for.what}"
    return clean(f"{text}{why} [{event.verdict}]. {event.advice}", 1000)


def what_was_held(event: Hang) -> tuple[str, str]:
    """Its kind and name: the same in every process that hangs for the same reason."""
    thing = event.hazard or event.waits_for
    return thing.kind, clean(thing.what)


def stacktrace(stack: Sequence[Frame]) -> str:
    """In Python's own form, oldest call first; of a deep one the innermost frames."""
    lines = [
        f'  File "{frame.file}", line {frame.line or "?"}, in {frame.function}'
        for frame in reversed(stack[:DEEPEST])
    ]
    return "\n".join(clean(line) for line in lines)


def innermost(stack: Sequence[Frame]) -> Frame | None:
    """The first frame that says something to a person."""
    return next((frame for frame in stack if not is_machinery(frame)), stack[0] if stack else None)


def nanoseconds(time: str) -> int | None:
    """An event's time since the epoch; None for what is no time."""
    try:
        moment = datetime.datetime.fromisoformat(time)
    except ValueError:
        return None
    return int(moment.timestamp() * 1_000_000) * 1000


def _remaining(fork: Fork) -> list[Hazard]:
    return [hazard for hazard in fork.hazards if hazard.counts and not hazard.cleared]


def _had(hazard: Hazard) -> str:
    who = f"thread {hazard.thread.name!r} " if hazard.thread else ""
    return f"{who}{had(hazard)} {hazard.what}" if who else f"{hazard.what} {had(hazard)}"


def _thread(name: str, native_id: int | None) -> Attributes:
    said: Attributes = {"thread.name": clean(name, 255)}
    return said if native_id is None else {**said, "thread.id": native_id}


def _place(frame: Frame) -> Attributes:
    said: Attributes = {"code.file.path": clean(frame.file), "code.function.name": clean(frame.function)}
    return said if frame.line is None else {**said, "code.line.number": frame.line}


def _hazard(hazard: Hazard) -> Attributes:
    return dict(_of_hazard(hazard))


def _of_hazard(hazard: Hazard) -> Iterator[tuple[str, Value]]:
    yield "forkproof.hazard.kind", hazard.kind
    yield "forkproof.hazard.what", clean(hazard.what)
    yield "forkproof.hazard.certainty", hazard.certainty
    if hazard.thread:
        yield "forkproof.hazard.thread.name", clean(hazard.thread.name, 255)
    if hazard.stack:
        yield "forkproof.hazard.stacktrace", stacktrace(hazard.stack)
