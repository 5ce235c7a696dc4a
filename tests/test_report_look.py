"""One look for run, report, doctor and verify: any width, any encoding, colour where a person wants it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

import pytest
from test_lab_verify import laboratory
from test_report import AT_RISK, HAZARD
from test_report_pages import BORN, FORK, HANG

from forkproof.lab.conclude import conclude
from forkproof.lab.table import print_report
from forkproof.model import Diagnosis, Frame, Origin, Thread, ThreadView, WaitsFor
from forkproof.report import Terminal
from forkproof.report._text import cells
from forkproof.report.diagnosis import Doctor

FOREIGN = "日本語, an import with a long name that goes on and on and on"
HELD = replace(HAZARD, what=f"import of {FOREIGN}")
FOUND = Diagnosis(
    time="2026-11-24T10:00:00Z",
    pid=4243,
    command="python3 app.py --with a-number --of options --that-do not --fit into --one line " * 2,
    python="3.13",
    verdict="proven",
    proof="owner",
    cause=f"MainThread waits for the import of {FOREIGN}",
    hazard=HELD,
    advice="import it before the first thread starts (at the top of the program), or fork before that",
    origin=Origin(
        forked=True, seconds=2.0, since="2026-11-24T09:59:58Z", parent=4242, command="python3 app.py"
    ),
    threads=(
        ThreadView(
            thread=Thread("MainThread", 1, 4243),
            does="waits for an import",
            waits_for=WaitsFor(kind="import-lock", what=f"import of {FOREIGN}"),
            stack=(Frame("/srv/app/main.py", 9, "serve"),),
            verdict="proven",
            proof="owner",
        ),
        ThreadView(thread=Thread(FOREIGN, 2, 4250), does="runs"),
    ),
    notes=(
        "a note about what could not be read, which is longer than one line of a narrow terminal has room for",
    ),
)


def events(stream: TextIO) -> None:
    terminal = Terminal(stream, always=True)
    for event in (replace(FORK, hazards=(HELD,)), BORN, replace(HANG, hazard=HELD), replace(AT_RISK, fork=2)):
        terminal.show(event)
    terminal.note(f"1 of 9 lines left out: {FOREIGN}")
    terminal.finish()


def diagnosis(stream: TextIO) -> None:
    Doctor(stream).diagnosis(FOUND)


def experiments(stream: TextIO) -> None:
    lab = laboratory(
        as_it_is=(8, 8),
        watched=(8, 8),
        later=(3, 8),
        wait=(0, 8),
        only_1=(0, 8, HELD),
        without_1=(8, 8, HELD),
    )
    print_report(lab, conclude(lab), stream)


class Stream(io.TextIOWrapper):
    """A terminal, or a pipe, with the encoding of its locale."""

    def __init__(self, *, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def written(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


def written(
    monkeypatch: pytest.MonkeyPatch,
    say: Callable[[TextIO], None],
    *,
    width: int = 80,
    encoding: str = "utf-8",
    terminal: bool = True,
    environment: dict[str, str] = {},  # noqa: B006
) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "COLUMNS": str(width),
        "LINES": "24",
        "TERM": "xterm-256color",
        **environment,
    }.items():
        monkeypatch.setenv(name, value)
    stream = Stream(encoding=encoding, terminal=terminal)
    say(stream)
    return stream.written()


ALL = pytest.mark.parametrize("say", [events, diagnosis, experiments])
COLOUR = re.compile(r"\x1b\[[\d;]*m")


@ALL
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_keeps_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, say: Callable[[TextIO], None], width: int, encoding: str
) -> None:
    lines = COLOUR.sub("", written(monkeypatch, say, width=width, encoding=encoding)).splitlines()
    if encoding == "utf-8":  # an escape for a letter that cannot be shown may need more room than the letter
        assert max(map(cells, lines)) <= width
        assert max(map(cells, lines)) > width * 0.6
    else:
        assert all(line.isascii() for line in lines)
        assert any("\\u65e5" in line for line in lines)


@ALL
@pytest.mark.parametrize(
    ("environment", "terminal"),
    [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True), ({}, False)],
    ids=["NO_COLOR", "dumb", "pipe"],
)
def test_it_is_plain_where_colours_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
    say: Callable[[TextIO], None],
    environment: dict[str, str],
    terminal: bool,
) -> None:
    assert "\x1b" in written(monkeypatch, say)  # the control
    assert "\x1b" not in written(monkeypatch, say, terminal=terminal, environment=environment)
