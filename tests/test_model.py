"""Events as values: what is written can be read, what is wrong is named, what is unknown is tolerated."""

from __future__ import annotations

import functools
import importlib.resources
import json
from dataclasses import fields
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkproof import model
from forkproof.model import (
    Assessment,
    Born,
    Connection,
    DoubledOutput,
    Fault,
    Fork,
    Frame,
    Hang,
    Hazard,
    Resolved,
    SharedConnection,
    Thread,
    WaitsFor,
)

numbers = st.integers(min_value=1, max_value=2**53)
seconds = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
frames = st.builds(Frame, file=st.text(), line=st.none() | numbers, function=st.text())
stacks = st.lists(frames, max_size=3).map(tuple)
threads = st.builds(Thread, name=st.text(), ident=st.none() | numbers, native_id=st.none() | numbers)
hazards = st.builds(Hazard, thread=st.none() | threads, stack=stacks, held_at=st.none() | frames)
forks = st.builds(
    Fork,
    pid=numbers,
    child=st.none() | numbers,
    fork=numbers,
    where=frames,
    waited_ms=seconds,
    polls=numbers,
    hazards=st.lists(hazards, max_size=3).map(tuple),
)
connections = st.builds(
    Connection, kind=st.text(), fd=numbers, peer=st.none() | st.text(), owner=st.none() | st.text()
)
inherited = st.lists(connections, max_size=2).map(tuple)
born = st.builds(Born, pid=numbers, parent=numbers, fork=numbers, connections=inherited)
shared = st.builds(
    SharedConnection,
    pid=numbers,
    parent=numbers,
    fork=numbers,
    connection=connections,
    thread=threads,
    stack=stacks,
    held_by=st.none() | numbers,
    others_wrote=numbers,
    others_read=numbers,
)
doubled = st.builds(
    DoubledOutput,
    pid=numbers,
    parent=numbers,
    fork=numbers,
    where=frames,
    file=st.none() | st.text(),
    fd=numbers,
    bytes=numbers.filter(bool),
    writers=numbers.filter(lambda n: n > 1),
)
waits = st.builds(WaitsFor, stack=stacks)
hangs = st.builds(
    Hang,
    pid=numbers,
    parent=st.none() | numbers,
    fork=st.none() | numbers,
    seconds=seconds,
    thread=threads,
    waits_for=waits,
    hazard=st.none() | hazards,
)
resolved = st.builds(Resolved, pid=numbers, thread=threads)
faults = st.builds(Fault, pid=numbers)
events = st.one_of(forks, born, shared, doubled, hangs, resolved, faults)

FRAME = Frame("app.py", 9, "<module>")
HAZARD = Hazard(
    kind="held-lock",
    certainty="certain",
    what="self._lock",
    thread=Thread("Thread-1", 1, 2),
    stack=(FRAME,),
    state="holds",
    held_at=FRAME,
)
FORK = Fork(
    time="t",
    pid=1,
    child=2,
    fork=1,
    risk="certain",
    where=FRAME,
    hazards=(HAZARD,),
    repaired=("x",),
    outcome="waited",
)
HANG = Hang(
    time="t",
    pid=2,
    parent=1,
    fork=1,
    seconds=5.0,
    thread=Thread("MainThread"),
    waits_for=WaitsFor(kind="held-lock", what="self._lock", stack=(FRAME,)),
    verdict="proven",
    proof="record",
    hazard=HAZARD,
)

SHARED = SharedConnection(
    time="t",
    pid=2,
    parent=1,
    fork=1,
    operation="write",
    connection=Connection(kind="tcp", fd=7, peer="127.0.0.1:5432", library="psycopg", owner="Connection"),
    thread=Thread("MainThread"),
    stack=(FRAME,),
    held_by=1,
    others_wrote=78,
    verdict="proven",
    proof="both-used",
    advice="connect in the child",
)

RESOLVED = Resolved(time="t", pid=2, thread=Thread("MainThread"), what="self._lock")


@functools.cache
def schema() -> jsonschema.Draft202012Validator:
    text = importlib.resources.files("forkproof").joinpath("events.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


@given(events)
def test_what_is_written_is_read_back_and_is_as_published(event: model.Event) -> None:
    line = json.loads(json.dumps(event.to_json()))
    assert model.event_from_json(line) == event
    schema().validate(line)


@pytest.mark.parametrize("event", [FORK, SHARED, HANG, RESOLVED], ids=lambda event: str(event.event))
def test_the_published_schema_wants_each_key_that_is_always_there(event: model.Event) -> None:
    line = json.loads(json.dumps(event.to_json()))
    extra = {item.name for item in fields(event) if "extra" in item.metadata}
    for key in line.keys() - extra:
        with pytest.raises(jsonschema.ValidationError):
            schema().validate({name: value for name, value in line.items() if name != key})


def test_keys_that_say_nothing_are_not_written_but_those_of_the_contract_are() -> None:
    fork = Fork(time="t", pid=1, fork=1, risk="none", where=FRAME)
    assert fork.to_json() == {
        "v": 1,
        "event": "fork",
        "time": "t",
        "pid": 1,
        "child": None,
        "fork": 1,
        "risk": "none",
        "where": {"file": "app.py", "line": 9, "function": "<module>"},
        "waited_ms": 0.0,
        "polls": 0,
        "repaired": [],
        "hazards": [],
    }


@pytest.mark.parametrize(
    "record", [FORK, SHARED, HANG, HAZARD, FRAME, HAZARD.thread], ids=lambda r: type(r).__name__
)
def test_a_value_of_the_wrong_type_is_refused_by_name(record: Any) -> None:
    line = json.loads(json.dumps(record.to_json()))
    for item in fields(record):
        wrong: object
        for wrong in ({"not": "it"}, [[]], 0.5j):
            if item.name in (
                "thread",
                "where",
                "waits_for",
                "hazard",
                "held_at",
                "connection",
            ) and isinstance(wrong, dict):
                continue  # an object is right there; what is in it is another field's matter
            with pytest.raises(ValueError, match=rf"^{type(record).__name__.lower()}\.{item.name}(\[0\])?: "):
                type(record).from_json({**line, item.name: wrong})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pid": "1"}, "fork.pid"),
        ({"pid": True}, "fork.pid"),
        ({"pid": None}, "fork.pid"),
        ({"child": 1.5}, "fork.child"),
        ({"risk": "enormous"}, "fork.risk"),
        ({"outcome": "maybe"}, "fork.outcome"),
        ({"waited_ms": "4"}, "fork.waited_ms"),
        ({"where": None}, "fork.where"),
        ({"where": {"file": 1}}, "fork.where.file"),
        ({"where": {}}, "fork.where.file: missing"),
        ({"repaired": "x"}, "fork.repaired"),
        ({"repaired": ["x", 1]}, r"fork.repaired\[1\]"),
        (
            {"hazards": [HAZARD.to_json(), {**HAZARD.to_json(), "stack": [{"line": 1}]}]},
            r"fork.hazards\[1\].stack\[0\].file",
        ),
        ({"hazards": [{**HAZARD.to_json(), "thread": {"name": 1}}]}, r"fork.hazards\[0\].thread.name"),
    ],
)
def test_the_error_names_the_field_that_is_wrong(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: " if "missing" not in field else f"^{field}$"):
        Fork.from_json({**FORK.to_json(), **changes})


def test_unknown_keys_are_left_out_and_absent_ones_have_their_defaults() -> None:
    line = {
        "time": "t",
        "pid": 1,
        "fork": 1,
        "risk": "none",
        "where": {"file": "a", "new": 1},
        "newer": {},
        "waited_ms": 3,
    }
    assert Fork.from_json(line) == Fork(time="t", pid=1, fork=1, risk="none", where=Frame("a"), waited_ms=3.0)
    assert type(Fork.from_json(line).waited_ms) is float
    assert Hazard.from_json({**HAZARD.to_json(), "kind": "of a later version"}).kind == "of a later version"


def test_events_of_later_versions_are_not_events_of_this_one() -> None:
    assert model.event_from_json({"v": 1, "event": "meteor"}) is None
    assert model.event_from_json({"v": 2, "event": "fork", "pid": "a pid as text"}) is None


@pytest.mark.parametrize(
    "data", [None, [], 1, "fork", {}, {"v": 1}, {"event": "fork"}, {"v": "1", "event": "fork"}]
)
def test_what_is_no_event_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not a forkproof event"):
        model.event_from_json(data)


def test_records_cannot_be_changed_and_hold_nothing_else() -> None:
    with pytest.raises(AttributeError):
        FRAME.line = 3  # type: ignore[misc]
    assert not hasattr(FORK, "__dict__")
    assert hash(FORK) == hash(Fork.from_json(FORK.to_json()))


def test_the_risk_is_what_was_not_cleared() -> None:
    def hazard(certainty: model.Certainty, cleared: bool) -> Hazard:
        return Hazard(kind="held-lock", certainty=certainty, what="x", cleared=cleared)

    assert model.risk_of([]) == "none"
    assert model.risk_of([hazard("certain", True), hazard("possible", True)]) == "none"
    assert model.risk_of([hazard("certain", True), hazard("possible", False)]) == "possible"
    assert model.risk_of([hazard("possible", False), hazard("certain", False)]) == "certain"
    assert not Assessment(risk="none")
    assert Assessment(risk="possible")
