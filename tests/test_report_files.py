"""Whatever has become of the files, `report` shows what could be read and says what could not, without a traceback."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from test_report_pages import BORN, FORK, HANG, lines

from forkproof.report import EventLines
from forkproof.report.jsonl import _LONGEST

REPORT = ("-m", "forkproof", "report")
GOOD = lines(FORK, BORN, HANG)


def noise(count: int) -> bytes:
    return random.Random(1).randbytes(count)


DAMAGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut": (lambda: GOOD[:-40], "1 of 3 lines left out: 1 cut off (line 3 is not JSON)"),
    "damaged": (lambda: GOOD + b"{]\n", "1 of 4 lines left out: 1 damaged (line 4 is not JSON)"),
    "foreign": (
        lambda: b'{"level":"info"}\n' + GOOD,
        "1 of 4 lines left out: 1 foreign (line 1 is not an event of forkproof)",
    ),
    "newer": (
        lambda: GOOD + GOOD.replace(b'"v": 1', b'"v": 2'),
        "3 of 6 lines left out: 3 unknown (line 4 is an event of another version",
    ),
    "new kind": (lambda: GOOD + b'{"v":1,"event":"merge"}\n', "1 of 4 lines left out: 1 unknown"),
    "new keys": (lambda: GOOD.replace(b'"v": 1', b'"v": 1, "colour": [1]'), ""),
    "binary": (lambda: GOOD + noise(1 << 16), "damaged"),
    "nulls": (lambda: GOOD + bytes(4096), "1 cut off"),
    "one line without an end": (
        lambda: GOOD + b"x" * (_LONGEST + (2 << 20)) + b"\n" + lines(FORK)[:20],
        "1 damaged (line 4 has no end)",
    ),
    "gzip": (lambda: gzip.compress(GOOD), ""),
    "gzip of several": (lambda: gzip.compress(GOOD[:-40]) + gzip.compress(GOOD[-40:]), ""),
    "gzip, cut": (
        lambda: gzip.compress(GOOD + noise(1 << 16))[: 1 << 15],
        "the compressed file was cut off; what came before was read",
    ),
    "gzip, damaged": (
        lambda: gzip.compress(GOOD)[:-8] + bytes(8),  # as if its checksum were another
        "the compressed file is damaged; what came before the damage was read",
    ),
    "gzip, then something else": (
        lambda: gzip.compress(GOOD) + b"\x1f\x8bnot gzip",
        "the compressed file is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_can_be_read_is_shown_and_what_cannot_is_said(run: Run, tmp_path: Path, name: str) -> None:
    make, note = DAMAGE[name]
    (tmp_path / "forks").write_bytes(make())
    ended = run(*REPORT, "forks", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert "import of encodings.idna" in ended.stdout
    *_, summary = (line for line in ended.stdout.splitlines() if line.startswith("forkproof: 1 fork"))
    assert ("1 hung" in summary) == (name != "cut")
    told = " ".join(ended.stdout[ended.stdout.index(summary) + len(summary) :].split())
    assert note in told if note else not told


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"\x89PNG\r\n" + noise(5000), b"{}\n[1]\n"],
    ids=["empty", "blank", "image", "JSON"],
)
def test_a_file_that_is_not_ours_at_all(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    ended = run(*REPORT, "other", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.startswith("forkproof: 0 forks\n")
    assert ("left out" in ended.stdout) == bool(content.strip())


def test_several_files_and_folders(run: Run, tmp_path: Path) -> None:
    day = tmp_path / "day"
    day.mkdir()
    (day / "b.jsonl").write_bytes(GOOD)
    (day / "c.jsonl.gz").write_bytes(gzip.compress(GOOD))
    (day / "notes.txt").write_text("not events")
    (tmp_path / "a").write_bytes(GOOD + b"{\n")
    ended = run(*REPORT, "a", "day", cwd=tmp_path)
    assert ended.status == 0
    assert "forkproof: 3 forks, 3 at risk, 3 hung" in ended.stdout
    assert "forkproof: a: 1 of 4 lines left out" in ended.stdout
    assert "notes.txt" not in ended.stdout


def test_what_is_not_there_is_said_and_the_rest_is_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    (tmp_path / "empty").mkdir()
    ended = run(*REPORT, "gone", "a", "empty", cwd=tmp_path)
    assert ended.status == 0
    assert "forkproof: 1 fork, 1 at risk, 1 hung\n" in ended.stdout
    assert "forkproof: cannot read 'gone': No such file or directory; check the path\n" in ended.stdout
    assert "forkproof: no *.jsonl and no *.jsonl.gz in 'empty'\n" in ended.stdout


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_with_nothing_to_read_it_fails(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = run(*REPORT, name, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("forkproof: ")
    assert ended.stderr.count("\n") == 1


def test_a_file_that_may_not_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    (tmp_path / "a").chmod(0)
    if os.access(tmp_path / "a", os.R_OK):
        pytest.skip("this user may read everything")
    ended = run(*REPORT, "a", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (
        2,
        "forkproof: cannot read 'a': Permission denied; check the path\n",
    )


def test_from_stdin(run: Run) -> None:
    ended = run(*REPORT, "-", stdin=GOOD.decode())
    assert "forkproof: 1 fork, 1 at risk, 1 hung\n" in ended.stdout


def test_a_name_that_the_terminal_cannot_show_is_no_reason_to_fail(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD.replace(b"encodings.idna", json.dumps("日本")[1:-1].encode()))
    ended = run(*REPORT, "a", "日本", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert ended.status == 0
    assert "import of \\u65e5\\u672c" in ended.stdout
    assert "cannot read '\\u65e5\\u672c'" in ended.stdout
    assert ended.stdout.isascii()


def test_a_line_without_an_end_is_not_kept() -> None:
    reader = EventLines()
    for _ in range(_LONGEST // (1 << 20) + 3):
        assert not list(reader.feed(b"x" * (1 << 20)))
    assert len(reader._rest) <= _LONGEST
    assert list(reader.feed(b"\n" + lines(FORK))) == [FORK]
