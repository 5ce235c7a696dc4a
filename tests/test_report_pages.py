"""The page and the trace: all of the events, no more than the events, and nothing in them that a browser would obey."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import SHARED, events
from test_report import AT_RISK, HAZARD, WAITED

from forkproof.model import (
    Born,
    Connection,
    DoubledOutput,
    Event,
    Fault,
    Fork,
    Frame,
    Hang,
    Resolved,
    Thread,
    WaitsFor,
)
from forkproof.report._story import Story
from forkproof.report.html import Html
from forkproof.report.perfetto import Perfetto

SCRIPT = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>"


def at(second: float) -> str:
    return f"2026-11-24T10:00:{second:09.6f}Z"


FORK = replace(AT_RISK, time=at(1))
HANG = Hang(
    time=at(8),
    pid=4243,
    parent=4242,
    fork=1,
    seconds=5.0,
    thread=Thread("MainThread", 7, 4243),
    waits_for=WaitsFor(kind="import-lock", what=HAZARD.what, stack=(Frame("/srv/app/main.py", 12, "child"),)),
    verdict="proven",
    proof="record",
    hazard=HAZARD,
)
BORN = Born(time=at(1.1), pid=4243, parent=4242, fork=1)
SAFE = replace(FORK, risk="none", hazards=(), outcome="clear")
USE = replace(SHARED, time=at(2), pid=4243, parent=4242, held_by=4242, thread=Thread("worker", 9, 4244))


DOUBLED = DoubledOutput(
    time=at(2),
    pid=4242,
    parent=4242,
    fork=1,
    where=Frame("app.py", 9, "<module>"),
    file="<stdout>",
    fd=1,
    bytes=7,
    verdict="proven",
)


def page(*told: Event, notes: Sequence[str] = (), title: str = "forks.jsonl") -> str:
    stream = io.StringIO()
    html = Html(stream, title=title)
    for event in told:
        html.show(event)
    for note in notes:
        html.note(note)
    html.finish()
    return stream.getvalue()


def story(*told: Event) -> Story:
    made = Story()
    for event in told:
        made.take(event)
    made.close()
    return made


class Elements(HTMLParser):
    """What a browser makes of a page: its elements, and the text of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def data_in(text: str) -> Any:
    return json.loads(Elements(text).scripts[0])


def texts_in(text: str) -> list[str]:
    found: list[str] = data_in(text)["texts"]
    return found


# What the page says.


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([], "No fork was recorded."),
        ([replace(FORK, risk="none", hazards=(), outcome="clear")], "Nothing was at risk."),
        (
            [FORK],
            "When the fork went ahead, thread 'Thread-1 (lookup)' held import of encodings.idna: "
            "a child that needs it waits for ever.",
        ),
        ([WAITED], "The fork waited 4.1 ms, mostly for import of encodings.idna; then nothing was at risk."),
        (
            [FORK, BORN, HANG],
            "Process 4243 hangs: it waits for import of encodings.idna, which thread 'Thread-1 (lookup)' held at the "
            "fork; the child does not have that thread.",
        ),
        (
            [replace(HANG, hazard=replace(HAZARD, kind="vanished-worker"))],
            "Process 4243 hangs: it waits for import of encodings.idna, which the fork did not bring along.",
        ),
        (
            [replace(HANG, hazard=None)],
            "Process 4243 hangs: it waits for import of encodings.idna that never comes.",
        ),
        (
            [FORK, HANG, Resolved(time=at(9), pid=4243, thread=HANG.thread, what=HAZARD.what)],
            "When the fork went ahead, thread 'Thread-1 (lookup)' held import of encodings.idna: "
            "a child that needs it waits for ever.",
        ),
        (
            [SAFE, BORN, USE],
            "Process 4243 writes to TCP connection to 127.0.0.1:5432 (psycopg, Connection), which process 4242 has open "
            "too: what was meant for one may reach the other.",
        ),
        (
            [USE, replace(USE, pid=4245), replace(USE, pid=4246, connection=Connection(kind="pipe", fd=3))],
            "2 processes use TCP connection to 127.0.0.1:5432 (psycopg, Connection), which process 4242 has open "
            "too: what was meant for one may reach the other. 1 other process does the like.",
        ),
        (
            [SAFE, BORN, DOUBLED],
            "Output was written by 2 processes: 7 bytes in the buffer of stdout, which a fork at app.py:9 in <module> copied.",
        ),
        (
            [replace(FORK, hazards=(replace(HAZARD, kind="shared-connection", what="a socket"),))],
            "When the fork went ahead, a socket stayed behind: a child that needs it waits for ever.",
        ),
    ],
)
def test_one_sentence_says_why(told: list[Event], sentence: str) -> None:
    assert story(*told).sentence() == sentence
    assert sentence in Elements(page(*told)).text


def test_what_recurs_is_one_entry_with_its_forks() -> None:
    forks = [replace(FORK, fork=number, child=5000 + number) for number in range(1, 313)]
    data = data_in(page(*forks))
    assert len(data["groups"]) == len(data["hazards"]) == len(data["stacks"]) == 1
    assert len(data["forks"]) == 312
    assert "import of encodings.idna" in Elements(page(*forks)).text
    assert "import-lock, 312 forks" in Elements(page(*forks)).text  # for who has no scripts


def test_a_day_of_forks_is_a_page_of_moderate_size() -> None:
    forks = [replace(FORK, fork=number, child=5000 + number) for number in range(1, 10_001)]
    assert len(page(*forks)) < 2_000_000


def test_a_pid_that_comes_back_is_another_process() -> None:
    again: list[Event] = [
        replace(FORK, time=at(20), fork=2, child=None),
        replace(BORN, time=at(20.1), fork=2),
        replace(HANG, time=at(30), fork=2),
    ]
    told = story(FORK, BORN, *again)
    assert [process.pid for process in told.processes] == [4242, 4243, 4243]
    assert [(occasion.child, occasion.hangs) for occasion in told.occasions] == [(1, []), (2, [0])]


def test_runs_of_several_files_are_kept_apart() -> None:
    html = Html(io.StringIO())
    for _ in range(2):
        html.begin()
        for event in (FORK, BORN, HANG):
            html.show(event)
    html.finish()
    assert [(occasion.child, occasion.hangs) for occasion in html._story.occasions] == [(1, [0]), (3, [1])]


def test_a_hang_whose_forks_line_is_lost_is_shown() -> None:
    data = data_in(page(HANG))
    assert len(data["forks"]) == len(data["hangs"]) == 1
    assert data["forks"][0][4] == "lost"


def test_a_shared_connection_belongs_to_the_fork_that_shared_it() -> None:
    data = data_in(page(SAFE, BORN, USE))
    (fork,), (use,), (group,) = data["forks"], data["shared"], data["groups"]
    assert fork[-1] == [0]
    assert data["processes"][use["p"]][0] == 4243
    assert [data["texts"][part] for part in group] == [
        "shared-connection",
        "TCP connection to 127.0.0.1:5432 (psycopg, Connection)",
        "psycopg",
    ]
    assert data["texts"][use["why"]].startswith(
        "process 4242 has it open too, and since the fork others have"
    )
    text = Elements(page(SAFE, BORN, USE)).text
    assert "shared-connection, 1 use" in text  # for who has no scripts
    assert SHARED.advice in text


def test_two_connections_that_are_shared_without_a_forks_line_are_of_one_fork() -> None:
    told = story(USE, replace(USE, connection=Connection(kind="pipe", fd=3)))
    assert [(occasion.fork, occasion.shared) for occasion in told.occasions] == [(None, [0, 1])]


def test_a_daemons_hang_belongs_to_the_fork_that_left_it_behind() -> None:
    second: list[Event] = [
        replace(FORK, pid=4243, fork=2, child=4244, risk="none", hazards=()),
        replace(BORN, pid=4244, parent=4243, fork=2),
    ]
    told = story(FORK, BORN, *second, replace(HANG, pid=4244))
    assert [occasion.hangs for occasion in told.occasions] == [[0], []]


def test_the_line_that_matters_is_marked_and_shown_with_what_is_around_it(tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    source.write_text("".join(f"line_{number}()\n" for number in range(1, 21)))
    held = Frame(str(source), 10, "hold")
    stack = (Frame(str(source), 3, "inner"), held, Frame(str(source), 17, "outer"))
    data = data_in(page(replace(FORK, hazards=(replace(HAZARD, stack=stack, held_at=held),))))
    (frames, matters, _machinery) = data["stacks"][0]
    assert data["frames"][frames[matters]][1] == 10
    shown = {int(number): lines for number, lines in data["sources"].items()}
    assert shown[frames[matters]] == [8, [f"line_{number}()" for number in range(8, 13)]]
    assert shown[frames[0]] == [3, ["line_3()"]]


@given(st.lists(events, max_size=6))
@settings(max_examples=50)
def test_any_events_make_a_page_and_a_trace(told: list[Event]) -> None:
    data = data_in(page(*told))
    count = {
        name: len(data[name])
        for name in (
            "texts",
            "frames",
            "groups",
            "lanes",
            "stacks",
            "hazards",
            "processes",
            "hangs",
            "shared",
        )
    }
    for fork in data["forks"]:
        assert 0 <= fork[1] < count["processes"]
        assert all(0 <= hazard < count["hazards"] for hazard in fork[7])
        assert all(0 <= hang < count["hangs"] for hang in fork[9])
        assert all(0 <= use < count["shared"] for use in fork[13])
    for item in [*data["hazards"], *data["hangs"], *data["shared"]]:
        assert 0 <= item["group"] < count["groups"]
        assert -1 <= item["stack"] < count["stacks"]
        assert -1 <= item["lane"] < count["lanes"]
        assert -1 <= item["what"] < count["texts"]
    json.loads(trace_text(*told))


# What the page must not do.


def test_what_came_from_the_program_is_shown_and_not_run() -> None:
    hazard = replace(
        HAZARD,
        what=f"import of {SCRIPT}",
        thread=Thread(SCRIPT, 1, 2),
        advice=SCRIPT,
        stack=(Frame(SCRIPT, 1, SCRIPT),),
    )
    fork = replace(FORK, hazards=(hazard,), where=Frame(SCRIPT, 1, SCRIPT), note=SCRIPT, repaired=(SCRIPT,))
    text = page(
        fork,
        replace(HANG, hazard=hazard, note=SCRIPT),
        replace(USE, connection=Connection(kind=SCRIPT, fd=1, peer=SCRIPT, library=SCRIPT), advice=SCRIPT),
        Fault(time=SCRIPT, pid=1, message=SCRIPT),
        notes=[SCRIPT],
        title=SCRIPT,
    )
    elements = Elements(text)
    assert elements.tags["script"] == 2
    assert elements.tags["img"] == 0
    assert f"import of {SCRIPT}" in texts_in(text)
    assert f"import of {SCRIPT}" in elements.text


def test_only_its_own_script_may_run_and_nothing_may_be_fetched() -> None:
    text = page(FORK)
    elements = Elements(text)
    (policy,) = (
        value or ""
        for tag, name, value in elements.attributes
        if (tag, name) == ("meta", "content") and value and "default-src" in value
    )
    hashed = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{hashed}'" in policy
    assert not [
        name
        for _tag, name, _value in elements.attributes
        if name in ("src", "href", "style") or name.startswith("on")
    ]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_commands_of_terminals_and_marks_that_turn_text_around_are_escaped() -> None:
    assert "a\\u202eb\\x1b[2J" in texts_in(
        page(replace(FORK, hazards=(replace(HAZARD, what="a\u202eb\x1b[2J"),)))
    )


@pytest.mark.parametrize("name", ["passwords.txt", "key.pem", "folder.py", "no-suffix"])
def test_only_python_source_is_read(tmp_path: Path, name: str) -> None:
    """The names in a file of events are claims, and the page may go to anybody."""
    file = tmp_path / name
    if name == "folder.py":
        file.mkdir()
    else:
        file.write_text("something private\n")
    frame = Frame(str(file), 1, "f")
    assert (
        data_in(page(replace(FORK, where=frame, hazards=(replace(HAZARD, stack=(frame,)),))))["sources"] == {}
    )


def test_a_script_without_a_suffix_is_source(tmp_path: Path) -> None:
    file = tmp_path / "serve"
    file.write_text("#!/usr/bin/python3\nserve()\n")
    data = data_in(page(replace(FORK, where=Frame(str(file), 2, "f"), hazards=())))
    assert list(data["sources"].values()) == [[2, ["serve()"]]]


def test_a_credential_in_source_or_a_name_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text('connect("db://me:hunter2@host/", password="hunter2", token = "hunter2")\n')
    frame = Frame(str(file), 1, "f")
    hazard = replace(
        HAZARD, what="lock of db://me:hunter2@host/", stack=(frame,), thread=Thread("db://me:hunter2@h")
    )
    text = page(replace(FORK, where=frame, hazards=(hazard,)))
    assert "connect(" in text
    assert "hunter2" not in text
    assert "hunter2" not in trace_text(replace(FORK, where=frame, hazards=(hazard,)))


# The trace.


def trace_text(*told: Event) -> str:
    stream = io.StringIO()
    perfetto = Perfetto(stream)
    for event in told:
        perfetto.show(event)
    perfetto.finish()
    return stream.getvalue()


def trace(*told: Event) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(trace_text(*told))["traceEvents"]
    return found


def test_the_trace_has_fork_hold_wait_and_arrow() -> None:
    items = trace(FORK, BORN, HANG)
    names = {item["tid"]: item["args"]["name"] for item in items if item["name"] == "thread_name"}
    slices = {(item["pid"], names[item["tid"]], item["name"]): item for item in items if item["ph"] == "X"}
    assert set(slices) == {
        (4242, "forks", "fork 1 went ahead at risk"),
        (4242, "Thread-1 (lookup)", "held import of encodings.idna"),
        (4243, "forks", "born"),
        (4243, "MainThread", "waits for import of encodings.idna"),
    }
    assert slices[4243, "MainThread", "waits for import of encodings.idna"]["dur"] == 5_000_000
    start, end = (next(item for item in items if item["ph"] == phase) for phase in "sf")
    assert (start["pid"], end["pid"], end["bp"]) == (4242, 4243, "e")
    assert (start["cat"], start["name"], start["id"]) == (end["cat"], end["name"], end["id"])


def test_the_trace_marks_the_use_of_a_shared_connection() -> None:
    items = trace(SAFE, BORN, USE)
    (use,) = (item for item in items if item["ph"] == "i")
    assert use["name"] == "writes to a shared TCP connection to 127.0.0.1:5432 (psycopg, Connection)"
    assert (use["s"], use["ts"] - items[-1]["ts"], use["pid"]) == ("t", 0, 4243)
    names = {item["tid"]: item["args"]["name"] for item in items if item["name"] == "thread_name"}
    assert names[use["tid"]] == "worker"
    assert use["args"]["because"].startswith("process 4242 has it open too")


def test_the_trace_keeps_the_format() -> None:
    """As the importer of Perfetto reads it: whole numbers, a name for each track, tracks that no two processes share, slices
    that lie in each other or apart, arrows that begin and end inside a slice."""
    busy = [
        replace(
            FORK, fork=number, child=5000 + number, time=at(1 + number * 0.001), waited_ms=0.7 + number % 3
        )
        for number in range(1, 50)
    ]
    items = trace(*busy, BORN, HANG, USE, Fault(time=at(9), pid=4242, message="x"))
    named = Counter(item["tid"] for item in items if item["name"] == "thread_name")
    assert set(named.values()) == {1}
    of: dict[int, set[int]] = {}
    tracks: dict[int, list[tuple[int, int]]] = {}
    for item in items:
        assert {"ph", "name", "ts", "pid", "tid"} <= set(item)
        assert all(type(item[key]) is int and 0 <= item[key] < 2**53 for key in ("ts", "pid", "tid"))
        assert item["tid"] < 2**32
        if item["ph"] == "X":
            assert type(item["dur"]) is int
            assert item["dur"] > 0
            assert item["tid"] in named
            of.setdefault(item["tid"], set()).add(item["pid"])
            tracks.setdefault(item["tid"], []).append((item["ts"], item["ts"] + item["dur"]))
        else:
            assert item["ph"] in "Msfi"
    assert all(len(pids) == 1 for pids in of.values())
    for slices in tracks.values():
        ends: list[int] = []
        for begin, end in slices:
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or end <= ends[-1]
            ends.append(end)
    for item in items:
        if item["ph"] in "sf":
            assert any(begin <= item["ts"] <= end for begin, end in tracks[item["tid"]])
    begun = Counter(item["id"] for item in items if item["ph"] == "s")
    assert begun == Counter(item["id"] for item in items if item["ph"] == "f")
    assert set(begun.values()) == {1}


# The commands.


def lines(*told: Event) -> bytes:
    return b"".join(json.dumps(event.to_json()).encode() + b"\n" for event in told)


def test_report_and_run_write_both(run: Run, tmp_path: Path) -> None:
    (tmp_path / "forks.jsonl").write_bytes(lines(FORK, BORN, HANG) + b"{damaged\n")
    ended = run(
        "-m", "forkproof", "report", "--html", "a.html", "--perfetto", "a.json", "forks.jsonl", cwd=tmp_path
    )
    assert (ended.status, ended.stdout) == (0, "")
    assert "1 of 4 lines left out" in ended.stderr
    text = (tmp_path / "a.html").read_text()
    assert "1 of 4 lines left out" in Elements(text).text
    assert len(data_in(text)["forks"]) == 1
    assert "1 of 4 lines left out" in json.loads((tmp_path / "a.json").read_text())["otherData"]["notes"][0]

    program = "import os, threading; e = threading.Event(); l = threading.Lock()\n"
    program += "def hold():\n with l: e.set(); d.wait()\n"
    program += "d = threading.Event(); t = threading.Thread(target=hold); t.start(); e.wait()\n"
    program += "if os.fork(): os.wait(); d.set()\nelse: os._exit(0)\n"
    (tmp_path / "app.py").write_text(program)
    files = ("--html", "b.html", "--perfetto", "b.json")
    ended = run("-m", "forkproof", "run", "--policy", "observe", *files, "app.py", cwd=tmp_path)
    assert ended.status == 0
    assert "1 at risk" in ended.stderr
    data = data_in((tmp_path / "b.html").read_text())
    assert [data["texts"][group[0]] for group in data["groups"]] == ["held-lock"]
    assert any(item["ph"] == "s" for item in json.loads((tmp_path / "b.json").read_text())["traceEvents"])


@pytest.mark.parametrize("command", ["report forks.jsonl", "run app.py"])
def test_without_jinja2_one_line_names_the_extra(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "forks.jsonl").write_bytes(lines(FORK))
    (tmp_path / "app.py").write_text("open('it-ran', 'w').close()\n")
    name, file = command.split()
    code = "import sys; sys.modules['jinja2'] = None; from forkproof.cli import main; sys.exit(main())"
    ended = run("-c", code, name, "--html", "page.html", file, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert (
        ended.stderr == "forkproof: --html needs jinja2; install it with: pip install 'forkproof[report]'\n"
    )
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["no/such/folder/x", "."])
@pytest.mark.parametrize("option", ["--html", "--perfetto"])
def test_where_it_cannot_be_written_nothing_is_run(run: Run, tmp_path: Path, option: str, name: str) -> None:
    (tmp_path / "app.py").write_text("open('it-ran', 'w').close()\n")
    ended = run("-m", "forkproof", "run", option, name, "app.py", cwd=tmp_path)
    assert ended.status == 2
    assert re.fullmatch(r"forkproof: cannot write to '.*': .*; name another file\n", ended.stderr)
    assert not (tmp_path / "it-ran").exists()


def test_the_trace_of_forks_from_two_threads_at_once_is_cut_where_they_overlap() -> None:
    first = replace(WAITED, time=at(1.004), waited_ms=3.0)
    second = replace(WAITED, time=at(1.006), waited_ms=4.0, fork=2)  # from 1.002 to 1.006
    held = [item for item in trace(first, second) if item["ph"] == "X" and item["name"].startswith("held")]
    assert [item["dur"] for item in held] == [3001, 2001]


def test_forks_are_of_the_process_that_made_them() -> None:
    told = story(FORK, Fork(time=at(2), pid=4243, fork=2, risk="none", where=FORK.where))
    assert [occasion.process for occasion in told.occasions] == [0, 1]
    assert told.processes[1].parent == 0
