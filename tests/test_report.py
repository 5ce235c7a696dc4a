"""What a person reads: the right things, once, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from test_model import HANG, RESOLVED, SHARED, events

from forkproof.model import Born, Event, Fault, Fork, Frame, Hazard, Thread
from forkproof.report import EventLines, Pairing, Terminal
from forkproof.report._text import cells, clean
from forkproof.report._words import trimmed

LOOKUP = (
    Frame("<frozen importlib._bootstrap>", 1176, "_find_and_load"),
    Frame(socket.__file__, 962, "getaddrinfo"),
    Frame("/srv/app/names.py", 4, "lookup"),
    Frame(threading.__file__, 982, "run"),
    Frame(threading.__file__, 1045, "_bootstrap_inner"),
    Frame(threading.__file__, 1002, "_bootstrap"),
)
HAZARD = Hazard(
    kind="import-lock",
    certainty="certain",
    what="import of encodings.idna",
    thread=Thread("Thread-1 (lookup)", 1, 2),
    stack=LOOKUP,
    advice="import encodings.idna before the first thread starts",
)
WHERE = Frame("/srv/app/main.py", 9, "serve")
AT_RISK = Fork(
    time="t", pid=4242, child=4243, fork=1, risk="certain", where=WHERE, hazards=(HAZARD,), outcome="observed"
)
WAITED = replace(
    AT_RISK, risk="none", waited_ms=4.12, polls=3, outcome="waited", hazards=(replace(HAZARD, cleared=True),)
)
CLEAR = Fork(time="t", pid=1, fork=1, risk="none", where=WHERE, outcome="clear")


def report(*events: Event, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    terminal = Terminal(stream, width=width)
    for event in events:
        terminal.show(event)
    terminal.finish()
    return raw.getvalue().decode(encoding)


def test_nothing_is_said_when_there_is_nothing_to_say() -> None:
    assert report() == ""
    assert report(CLEAR, Born(time="t", pid=2, parent=1, fork=1), replace(CLEAR, fork=2)) == ""


def test_a_fork_at_risk_is_told_place_reason_fix() -> None:
    line = Path(socket.__file__).read_text().splitlines()[961].strip()
    assert report(AT_RISK) == (
        "forkproof: /srv/app/main.py:9 in serve: fork 1 (4242 → 4243) went ahead at risk\n"
        "  Thread-1 (lookup) held: import of encodings.idna\n"
        "    at socket.py:962 in getaddrinfo\n"
        f"        962 │ {line}\n"
        "    at /srv/app/names.py:4 in lookup\n"
        "    ended: not waited for; so when the fork went ahead\n"
        "    help: import encodings.idna before the first thread starts\n"
        "\n"
        "forkproof: 1 fork, 1 at risk\n"
    )


def test_a_fork_that_waited_says_how_long_and_how_it_ended() -> None:
    text = report(WAITED)
    assert "fork 1 (4242 → 4243) waited 4.1 ms, then nothing was at risk\n" in text
    assert "ended: waited 4.1 ms; let go, or owned by the fork, before the fork went ahead\n" in text
    assert text.endswith("forkproof: 1 fork, none at risk, 1 waited (median 4.1 ms, max 4.1 ms)\n")


def test_a_wait_in_vain_is_told_as_one() -> None:
    gave_up = replace(
        AT_RISK, waited_ms=1003.0, outcome="gave-up", repaired=("self._lock, half-changed perhaps",)
    )
    text = report(gave_up)
    assert "fork 1 (4242 → 4243) went ahead at risk\n" in text
    assert "ended: waited 1 s in vain; still so when the fork went ahead\n" in text
    assert "repaired: self._lock, half-changed perhaps\n" in text
    assert text.endswith("forkproof: 1 fork, 1 at risk, 1 waited (median 1 s, max 1 s), 1 repaired\n")


def test_a_refused_fork_is_not_counted_as_one_at_risk() -> None:
    text = report(replace(AT_RISK, outcome="refused", child=None, fork=0))
    assert "fork (4242) was refused: it would be at risk\n" in text
    assert text.endswith("forkproof: 1 fork, none at risk, 1 refused\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Thread-1 (lookup) held: import of encodings.idna"),
        ({"certainty": "possible"}, "Thread-1 (lookup) possibly held: import"),
        ({"state": "acquiring"}, "Thread-1 (lookup) was acquiring: import"),
        ({"state": "acquiring", "certainty": "possible"}, "Thread-1 (lookup) was possibly acquiring: import"),
        ({"state": "leaving"}, "Thread-1 (lookup) was letting go of: import"),
        ({"kind": "native-call", "what": "getaddrinfo"}, "Thread-1 (lookup) was inside: getaddrinfo"),
        (
            {"kind": "native-pool", "what": "OpenBLAS", "thread": None},
            "OpenBLAS has its threads in the parent only",
        ),
        ({"kind": "shared-connection", "what": "db", "thread": None}, "db is open in both processes"),
        ({"kind": "of a later version"}, "Thread-1 (lookup) held: import"),
    ],
)
def test_the_reason_says_how_sure_it_is(changes: dict[str, object], words: str) -> None:
    hazard = replace(HAZARD, **changes)  # type: ignore[arg-type]
    assert f"\n  {words}" in report(replace(AT_RISK, hazards=(hazard,)))


def test_threads_that_want_the_same_are_told_together_the_holder_first() -> None:
    wanting = [replace(HAZARD, thread=Thread(f"waiter-{i}"), state="acquiring") for i in range(9)]
    text = report(replace(AT_RISK, hazards=(*wanting, HAZARD)))
    assert "\n  Thread-1 (lookup) held: import of encodings.idna\n" in text
    assert "the same with waiter-0, waiter-1, waiter-2 and 6 more\n" in text
    assert text.count("encodings.idna") == 2  # the reason and the help


def test_what_one_thread_had_at_one_place_is_told_together() -> None:
    lock = replace(HAZARD, kind="held-lock", what="self._lock of app.Cache", advice="declare_safe it")
    elsewhere = replace(lock, what="other", thread=Thread("Thread-2", 3, 4), certainty="possible")
    text = report(replace(AT_RISK, hazards=(lock, elsewhere, HAZARD)))
    told = [line for line in text.splitlines() if not line.startswith("    at ") and "│" not in line]
    assert told[1:-2] == [
        "  Thread-1 (lookup) held: self._lock of app.Cache",
        "  Thread-1 (lookup) held: import of encodings.idna",
        "    ended: not waited for; so when the fork went ahead",
        "    help: declare_safe it",
        "    help: import encodings.idna before the first thread starts",
        "  Thread-2 possibly held: other",
        "    ended: not waited for; so when the fork went ahead",
        "    help: declare_safe it",
    ]


def test_what_recurs_is_counted_instead() -> None:
    forks = [replace(AT_RISK, fork=number) for number in range(1, 1235)]
    text = report(*forks)
    assert text.count("went ahead at risk") == 1
    assert re.findall(r"as above, at (\d+) forks now", text) == ["10", "100", "1000"]
    assert text.endswith(
        "forkproof: 1234 forks, 1234 at risk\n  most often: import of encodings.idna (1234 forks)\n"
    )


def test_what_is_new_at_a_later_fork_is_told_in_full() -> None:
    other = replace(HAZARD, what="self._lock of app.Cache", kind="held-lock")
    text = report(AT_RISK, replace(AT_RISK, fork=2, hazards=(HAZARD, other)), replace(AT_RISK, fork=3))
    assert (
        "fork 2 (4242 → 4243) went ahead at risk\n  Thread-1 (lookup) held: self._lock of app.Cache\n" in text
    )
    assert "  and 1 hazard shown at an earlier fork\n" in text
    assert "fork 3" not in text
    # The same lock, but this time the wait was in vain: that is news.
    assert "fork 2 (" in report(WAITED, replace(AT_RISK, fork=2, outcome="gave-up", waited_ms=1000.0))


def test_a_hang_is_told_with_its_proof() -> None:
    text = report(HANG)
    place = "forkproof: app.py:9 in <module>: process 2 (fork 1 of 1) "
    assert text.startswith(place + "hangs: MainThread has stood still for 5 s")
    assert text.splitlines()[1:3] == [
        "  waits for: self._lock",
        "  proven (by record): at the fork, Thread-1 held: self._lock",
    ]
    assert "1 hung" in text.splitlines()[-1]


def test_a_hang_without_a_hazard_says_what_its_proof_is() -> None:
    text = report(replace(HANG, hazard=None, proof="closed-world", advice="do better", note="so"))
    assert "  proven (by closed-world): no thread of this process can ever wake it\n" in text
    assert "  help: do better\n  note: so\n  it waits\n" in text


def test_a_shared_connection_is_told_once_with_its_proof_and_then_counted() -> None:
    text = report(SHARED, replace(SHARED, pid=3))
    place = "forkproof: app.py:9 in <module>: process 2 (fork 1 of 1) "
    lines = text.splitlines()
    assert (place + "writes to a connection that it shares with another process").startswith(lines[0])
    assert "  MainThread used TCP connection to 127.0.0.1:5432 (psycopg, Connection)" in lines
    proof = (
        "  proven (by both-used): process 1 has it open too, and since the fork others have written 78 bytes"
    )
    assert proof in lines
    assert "  help: connect in the child" in lines
    assert text.count("MainThread") == 1
    assert "2 shared connections used" in lines[-1]


def test_what_is_not_known_of_a_shared_connection_is_not_said() -> None:
    unseen = replace(SHARED, verdict="likely", proof=None, others_wrote=0)
    assert "likely: process 1 may have it open too: this process may not look" in report(unseen)
    pipe = replace(unseen, connection=replace(SHARED.connection, kind="pipe", peer=None, library=None))
    assert "used pipe (Connection)\n  likely: process 1 has it open too\n" in report(pipe)


def test_a_hang_that_has_resolved_is_not_counted() -> None:
    text = report(HANG, RESOLVED)
    assert "forkproof: process 2: MainThread goes on after all\n" in text
    assert "hung" not in text.splitlines()[-1]


def test_a_fault_and_a_childs_repair_are_told() -> None:
    text = report(
        Fault(time="t", pid=7, message="KeyError: 1"),
        Born(time="t", pid=8, parent=7, fork=1, repaired=("x",)),
    )
    assert "forkproof: a fault of its own turned it off in process 7: KeyError: 1\n" in text
    assert "forkproof: child 8 repaired: x\n" in text
    assert "1 repaired, forkproof failed in 1 process" in text


def test_the_stack_is_trimmed_to_what_matters() -> None:
    assert [frame and frame.function for frame in trimmed(LOOKUP)] == ["getaddrinfo", "lookup"]
    assert [frame and frame.function for frame in trimmed(LOOKUP[:1])] == ["_find_and_load"]
    assert list(trimmed(())) == []
    own_run = Frame("/srv/app/threading.py", 1, "helper")
    assert list(trimmed([own_run])) == [own_run]
    long = [Frame("a.py", line, "f") for line in range(20)]
    assert [frame and frame.line for frame in trimmed(long)] == [0, 1, 2, 3, None, 18, 19]


@pytest.mark.parametrize("width", [60, 61, 80, 200])
@given(events=st.lists(events, max_size=3))
def test_no_line_is_wider_than_the_terminal_and_none_commands_it(width: int, events: list[Event]) -> None:
    text = report(*events, width=width)
    assert all(cells(line) <= width for line in text.split("\n"))
    assert all(character.isprintable() for character in text.replace("\n", ""))


@pytest.mark.parametrize(
    ("width", "used"), [(1, 60), (60, 60), (10_000, 200)], ids=["too narrow", "narrow", "too wide"]
)
def test_the_width_is_kept_within_reason(width: int, used: int) -> None:
    text = report(replace(AT_RISK, hazards=(replace(HAZARD, advice="word " * 90),)), width=width)
    assert used - 5 <= max(map(len, text.splitlines())) <= used


EVIL = "\x1b[2J\x1b]0;title\x07\r\nforkproof: all is well\x9b31m\u202e\u2028\udce9"


def test_names_from_the_program_cannot_forge_the_report() -> None:
    hazard = replace(HAZARD, what=EVIL, thread=Thread(EVIL), advice=EVIL, stack=(Frame(EVIL, 1, EVIL),))
    fork = replace(AT_RISK, where=Frame(EVIL, 1, EVIL), hazards=(hazard,), note=EVIL, repaired=(EVIL,))
    hang = replace(HANG, hazard=hazard, advice=EVIL, thread=Thread(EVIL))
    text = report(fork, hang, Fault(time=EVIL, pid=1, message=EVIL), width=200)
    assert "\\x1b[2J" in text
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert not re.search("^ *forkproof: all is well", text, re.M)
    assert clean("\t日本\x7f") == "\\t日本\\x7f"


def test_a_stream_without_unicode_gets_ascii() -> None:
    text = report(replace(AT_RISK, hazards=(replace(HAZARD, what="日本語"),)), encoding="ascii")
    assert "(4242 -> 4243)" in text
    assert "\n        962 | " in text
    assert "\\u65e5\\u672c\\u8a9e" in text


@pytest.mark.parametrize("file", ["/nowhere.py", "folder", "pipe", "<string>"])
def test_a_source_that_cannot_be_read_is_not_shown(run: Run, tmp_path: Path, file: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # to open it would take for ever
    fork = replace(AT_RISK, where=Frame(file, 1, "f"), hazards=())
    ended = run("-c", SHOW, json.dumps(fork.to_json()), cwd=tmp_path, limit=10)
    assert "went ahead at risk\n\nforkproof: 1 fork, 1 at risk\n" in ended.stderr


SHOW = """
import json, sys
from forkproof.model import event_from_json
from forkproof.report import Terminal
terminal = Terminal(sys.stderr)
terminal.show(event_from_json(json.loads(sys.argv[1])))
terminal.finish()
"""


def on_a_terminal(terminal: tuple[int, int], **environment: str) -> str:
    ours, theirs = terminal
    event = json.dumps(AT_RISK.to_json())
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", SHOW, event], stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    try:
        while True:
            written += os.read(ours, 4096)
    except OSError:  # how a terminal says that nobody has its other end open
        pass
    assert process.wait(30) == 0
    return written.decode().replace("\r\n", "\n")


def test_colours_are_for_terminals_only(run: Run, terminal: tuple[int, int]) -> None:
    coloured = on_a_terminal(terminal, NO_COLOR="")
    assert "\x1b[" in coloured
    plain = run("-c", SHOW, json.dumps(AT_RISK.to_json())).stderr
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).split() == plain.split()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colours_can_be_refused(terminal: tuple[int, int], environment: dict[str, str]) -> None:
    assert "\x1b" not in on_a_terminal(terminal, **environment)


# Lines back into events.


def lines_of(*pieces: bytes) -> tuple[list[Event], str | None]:
    lines = EventLines()
    found = [event for piece in pieces for event in lines.feed(piece)]
    return [*found, *lines.close()], lines.left_out()


def as_line(event: Event) -> bytes:
    return json.dumps(event.to_json()).encode() + b"\n"


@given(st.lists(events, max_size=5), st.lists(st.integers(0, 2000), max_size=5))
def test_events_survive_any_way_of_cutting_the_file(events: list[Event], cuts: list[int]) -> None:
    whole = b"".join(map(as_line, events))
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    assert lines_of(*pieces) == (events, None)
    assert lines_of(whole.removesuffix(b"\n")) == (events, None)  # the last newline is not needed


def test_every_line_that_gave_no_event_is_accounted_for() -> None:
    good = as_line(AT_RISK)
    bad = [
        b"{\n",
        b"\xff\xfe\n",
        b'{"v":1,"event":"fork"}\n',
        b"[1]\n",
        b'{"a":1}\n',
        b'{"v":1,"event":"new"}\n',
    ]
    events, left_out = lines_of(good, *bad, b"\n", b"[" * 100_000 + b"\n", good, good[:50])
    assert events == [AT_RISK, AT_RISK]
    assert left_out == (
        "8 of 11 lines left out: 4 damaged (line 2 is not JSON), "
        "2 foreign (line 5 is not an event of forkproof), "
        "1 unknown (line 7 is an event of another version of forkproof), 1 cut off (line 11 is not JSON)"
    )


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_line_that_begins_where_another_was_cut_off_is_read(first: int, second: int) -> None:
    whole = as_line(AT_RISK)
    torn = (whole[: min(cut, len(whole) - 1)] for cut in (first, second))
    events, left_out = lines_of(*torn, whole, whole)
    assert events[-2:] == [AT_RISK, AT_RISK]
    assert left_out is not None and left_out.startswith("1 of 2 lines left out: 1 damaged")


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_no_file_is_so_strange_that_it_raises(pieces: list[bytes]) -> None:
    events, left_out = lines_of(*pieces)
    assert not events
    assert bool(left_out) == any(line.strip() for line in b"".join(pieces).split(b"\n"))


def test_a_fork_learns_its_child_from_the_child() -> None:
    first, second = replace(AT_RISK, child=None), replace(AT_RISK, child=None, fork=2)
    born = [Born(time="t", pid=100 + number, parent=4242, fork=number) for number in (1, 2)]

    early = Pairing()
    for event in (born[0], first):
        early.add(event)
    assert list(early.ready()) == [born[0], replace(first, child=101)]

    late = Pairing(patience=2)
    late.add(first)
    late.add(WAITED)
    assert list(late.ready()) == []
    late.add(born[0])
    assert list(late.ready()) == [replace(first, child=101), WAITED, born[0]]

    never = Pairing(patience=2)
    never.add(second)
    never.add(WAITED)
    assert [list(never.ready()) for _ in range(4)] == [[], [], [second, WAITED], []]
    never.add(first)
    assert list(never.ready(last=True)) == [first]
