"""What Forkproof has to say, as values: frozen records and their JSON form (events, version 1).

The annotations *are* the schema: `from_json` reads each field by its annotation, so a reader and a writer
cannot drift apart. A reader accepts what a later version may add (unknown keys, unknown events, absent
optional keys) and refuses what is wrong: a value of the wrong type raises `ValueError` naming the field.
Field names are the JSON keys. This module imports nothing of Forkproof, and everything may import it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self

VERSION = 1

Risk = Literal["none", "possible", "certain"]
Certainty = Literal["possible", "certain"]
State = Literal["holds", "acquiring", "leaving", "inside", "importing"]
NEEDED_ONLY = frozenset({"vanished-worker", "native-pool"})
"""Kinds of hazard that harm only a child that asks for what is gone; by themselves they put no fork at risk."""

Outcome = Literal["clear", "waited", "gave-up", "refused", "observed"]


def _extra(default: Any = None) -> Any:
    """A key that is written only when it says something."""
    return field(default=default, metadata={"extra": True})


class _Record:
    """A dataclass with a JSON form."""

    __slots__ = ()
    event: ClassVar[str | None] = None
    """The `event` key of a record that is a line of its own."""

    def to_json(self) -> dict[str, Any]:
        """This record as JSON values; an extra key that has its default is left out."""
        head = {"v": VERSION, "event": self.event} if self.event else {}
        return head | {
            item.name: _encode(value)
            for item in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if (value := getattr(self, item.name)) != item.default or "extra" not in item.metadata
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The record in `data`; unknown keys are left out, `ValueError` names what is missing or wrong."""
        record = _decode(cls, data, cls.__name__.lower())
        assert isinstance(record, cls)
        return record


@dataclass(frozen=True, slots=True)
class Frame(_Record):
    """A place in the source."""

    file: str
    line: int | None = None
    function: str = "?"


@dataclass(frozen=True, slots=True)
class Thread(_Record):
    """A thread, by the three names it goes by; the idents of ended threads are reused."""

    name: str
    ident: int | None = None
    native_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard(_Record):
    """One thing that a fork leaves behind for the child: who has it, where, and what to do about it."""

    kind: str
    """`import-lock`, `held-lock`, `native-call`, `vanished-worker`, `native-pool`, `shared-connection`."""
    certainty: Certainty
    cleared: bool = False
    """Seen to go, or owned by the forking thread, before the fork went ahead."""
    what: str
    thread: Thread | None = None
    stack: tuple[Frame, ...] = ()
    """Innermost frame first: `stack[0]` is where the thread stands. Of a deep recursion, the innermost hundred."""
    advice: str = ""
    state: State | None = _extra()
    held_at: Frame | None = _extra()
    """Where the thread took it, when that is known."""

    @property
    def counts(self) -> bool:
        """Whether it puts the fork at risk by itself. What only a child misses that asks for it does not."""
        return self.kind not in NEEDED_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(_Record):
    """One fork, everything seen at it, and how it ended."""

    event: ClassVar[str] = "fork"
    time: str
    pid: int
    child: int | None = None
    """None where the parent was not told; then a `Born` of the child names it."""
    fork: int
    """The number of this fork in process `pid`, from 1; 0 for one that was refused, and so is none."""
    risk: Risk
    """What remained when the fork went ahead."""
    where: Frame
    waited_ms: float = 0.0
    polls: int = 0
    repaired: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    policy: str | None = _extra()
    outcome: Outcome | None = _extra()
    note: str | None = _extra()
    host: str | None = _extra()
    program: str | None = _extra()
    """What python was started with: a script's name, or a module's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection(_Record):
    """A connection to another process, as one process has it."""

    kind: str
    """`tcp`, `unix`, `pipe`, or `socket` for one of another family."""
    fd: int
    local: str | None = None
    peer: str | None = None
    """The other end's address; None where it has none."""
    library: str | None = _extra()
    owner: str | None = _extra()
    """The class of that library's through which it was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Born(_Record):
    """A child says that it exists, and what it had to reset."""

    event: ClassVar[str] = "born"
    time: str
    pid: int
    parent: int
    fork: int
    repaired: tuple[str, ...] = _extra(())
    connections: tuple[Connection, ...] = _extra(())
    """Those that it has inherited, if that is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConnection(_Record):
    """A child has used a connection that it has inherited, and that another process has open as well."""

    event: ClassVar[str] = "shared-connection"
    time: str
    pid: int
    parent: int
    fork: int
    operation: Literal["read", "write", "shutdown"]
    connection: Connection
    thread: Thread
    stack: tuple[Frame, ...] = ()
    """Innermost frame first; compiled code that made the call is a frame without a line."""
    held_by: int | None = None
    """The process that still has it open: the parent, or one that the parent descends from."""
    others_wrote: int = 0
    others_read: int = 0
    """Bytes, since the fork, by other processes; 0 where that is not known."""
    verdict: Literal["proven", "likely"] = "likely"
    proof: Literal["both-open", "both-used"] | None = None
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubledOutput(_Record):
    """What was in the buffer of a file or a MemoryHandler at a fork has been written by more than one process."""

    event: ClassVar[str] = "doubled-output"
    time: str
    pid: int
    """The process that was not the first to write it."""
    parent: int
    fork: int
    where: Frame
    file: str | None
    fd: int | None
    bytes: int | None
    """None for a logging.handlers.MemoryHandler, which keeps `records`."""
    records: int | None = None
    writers: int = 2
    """How many processes had written it by then."""
    verdict: Literal["proven", "likely"] = "likely"
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitsFor(_Record):
    """What a thread that stands still waits for."""

    kind: str
    what: str
    stack: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang(_Record):
    """A thread of a child that stands still, and what is proven about why."""

    event: ClassVar[str] = "hang"
    time: str
    pid: int
    parent: int | None
    fork: int | None
    seconds: float
    thread: Thread
    waits_for: WaitsFor
    verdict: Literal["proven", "likely", "unknown"] = "unknown"
    proof: Literal["owner", "record", "closed-world"] | None = None
    hazard: Hazard | None = None
    advice: str = ""
    note: str | None = _extra()
    host: str | None = _extra()
    program: str | None = _extra()
    """What python was started with: a script's name, or a module's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(_Record):
    """A wait that was reported as a hang has ended after all."""

    event: ClassVar[str] = "resolved"
    time: str
    pid: int
    thread: Thread
    what: str
    """As in the hang's `waits_for`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadView(_Record):
    """What one thread of an examined process does at this moment."""

    thread: Thread
    does: str
    """In words: what it waits for, or that it runs."""
    waits_for: WaitsFor | None = None
    """Where only another thread of its process can end the wait; None where it runs, or waits for something else."""
    still: bool = False
    """It has not run between two looks."""
    stack: tuple[Frame, ...] = ()
    """Innermost first, compiled code included: `file` is then the library, and `line` null."""
    verdict: Literal["proven", "likely", "unknown", "none"] = "none"
    """Whether it waits for ever; `none`: nothing says so."""
    proof: Literal["owner", "record", "closed-world"] | None = None
    because: str = ""
    """What the verdict rests on, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin(_Record):
    """Where an examined process comes from."""

    forked: bool
    """It runs on what a fork gave it; false once it has exec'd."""
    seconds: float | None
    """How long ago it was forked; null where that cannot be known."""
    since: str | None
    parent: int | None = None
    """The process that it was forked from; null where that has ended, or has exec'd since."""
    command: str = ""
    threads: tuple[Thread, ...] = ()
    """The threads that the parent has now."""
    vanished: int = 0
    """How many of these were there at the fork and so vanished in the child; others may have ended since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(_Record):
    """What `forkproof doctor` found in one process."""

    event: ClassVar[str] = "diagnosis"
    time: str
    pid: int
    command: str
    python: str | None
    """Its version, as "3.13"; null where its stacks could not be read."""
    verdict: Literal["proven", "likely", "unknown", "none"]
    """The strongest of its threads'."""
    proof: Literal["owner", "record", "closed-world"] | None = None
    cause: str
    """What holds it up, in a sentence."""
    hazard: Hazard | None = None
    """The hazard of the fork's record that matches."""
    advice: str = ""
    origin: Origin
    threads: tuple[ThreadView, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be read, and what that means."""

    @property
    def is_deadlock(self) -> bool:
        """Proven, or likely."""
        return self.verdict in ("proven", "likely")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(_Record):
    """A fault of Forkproof's own, after which it is off in that process."""

    event: ClassVar[str] = "fault"
    time: str
    pid: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment(_Record):
    """What would be at risk if the calling thread forked now. True when anything would be."""

    risk: Risk
    hazards: tuple[Hazard, ...] = ()
    exact: bool = True
    """False where frames cannot be read on this interpreter and the evidence is coarser."""
    note: str | None = _extra()

    def __bool__(self) -> bool:
        return self.risk != "none"


Event = Fork | Born | SharedConnection | DoubledOutput | Hang | Resolved | Fault

_EVENTS: dict[str, type[Event]] = {
    kind.event: kind for kind in (Fork, Born, SharedConnection, DoubledOutput, Hang, Resolved, Fault)
}


def event_from_json(data: object) -> Event | None:
    """The event in one decoded line; None for a kind or a version that this reader does not know."""
    if not isinstance(data, dict) or type(data.get("v")) is not int or not isinstance(data.get("event"), str):
        raise ValueError("not a forkproof event: needs the keys v and event")
    kind = _EVENTS.get(data["event"])
    return kind.from_json(data) if kind and data["v"] == VERSION else None


def risk_of(hazards: typing.Iterable[Hazard]) -> Risk:
    """The risk that remains: the strongest certainty among the hazards that were not cleared."""
    remaining = {hazard.certainty for hazard in hazards if hazard.counts and not hazard.cleared}
    return "certain" if "certain" in remaining else "possible" if remaining else "none"


def _encode(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.to_json()
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _decode(hint: Any, value: Any, where: str) -> Any:
    """`value` read as the annotation `hint`; `where` names it in an error."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        optional, none = typing.get_args(hint)
        assert none is type(None), "the only unions in this module are with None"
        return None if value is None else _decode(optional, value, where)
    if origin is Literal:
        choices = typing.get_args(hint)
        if type(value) is not str or value not in choices:
            raise ValueError(f"{where}: one of {', '.join(choices)} expected, not {value!r:.60}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: a list expected, not {value!r:.60}")
        return tuple(_decode(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if issubclass(hint, _Record):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: an object expected, not {value!r:.60}")
        return hint(**_read_fields(hint, value, where))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # exact: a bool is no whole number here
        raise ValueError(f"{where}: {_NAMES[hint]} expected, not {value!r:.60}")
    return value


def _read_fields(cls: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    read = {}
    for item in fields(cls):
        if item.name in data:
            read[item.name] = _decode(_hints(cls)[item.name], data[item.name], f"{where}.{item.name}")
        elif item.default is MISSING:
            raise ValueError(f"{where}.{item.name}: missing")
    return read
