"""`forkproof report --overview`: the files of many programs and hosts, answered at once (DuckDB)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from forkproof._events import program_of

OVERVIEW = ("-m", "forkproof", "report", "--overview")


def fork(
    number: int, *hazards: tuple[str, bool], host: str = "a", program: str = "app.py", **more: Any
) -> dict[str, Any]:
    """A fork with hazards, each what it is and whether it was cleared."""
    return {
        "v": 1, "event": "fork", "time": f"2026-11-24T10:00:{number:02}.500000Z", "pid": 7, "child": None, "fork": number,
        "risk": "certain" if any(not cleared for _, cleared in hazards) else "none",
        "where": {"file": "/srv/app.py", "line": 3, "function": "f"}, "waited_ms": 0.0, "polls": 1, "repaired": [],
        "hazards": [
            {"kind": "held-lock", "certainty": "certain", "cleared": cleared, "what": what, "thread": None, "stack": [],
             "advice": ""}
            for what, cleared in hazards
        ],
        "policy": "wait", "outcome": "waited", "host": host, "program": program, **more,
    }  # fmt: skip


def hang(number: int, what: str, **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "event": "hang", "time": f"2026-11-24T11:00:{number:02}.000000Z", "pid": 100 + number, "parent": 7,
        "fork": number, "seconds": 5.0, "thread": {"name": "MainThread"}, "waits_for": {"kind": "x", "what": what, "stack": []},
        "verdict": "likely", "proof": None, "hazard": None, "advice": "", "host": "b", "program": "web", **more,
    }  # fmt: skip


def written(path: Path, *events: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(event) + "\n" for event in events).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def overview(run: Run, *args: str | Path, status: int = 0, **more: Any) -> dict[str, Any]:
    ended = run(*OVERVIEW, "--json", *args, **more)
    assert (ended.status, ended.stderr) == (status, "")
    return json.loads(ended.stdout)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    pytest.importorskip("duckdb")
    folder = tmp_path / "logs"
    written(
        folder / "a" / "forks.jsonl",
        fork(1),
        {"v": 1, "event": "born", "time": "2026-11-24T10:00:01Z", "pid": 8, "parent": 7, "fork": 1},
        fork(2, ("lock", True), ("lock", True), waited_ms=2.0),
        fork(3, ("lock", False), ("import of x", True), waited_ms=6.0),
    )
    written(
        folder / "b" / "forks.jsonl.gz",
        fork(4, ("lock", True), host="b", program="web", waited_ms=4.0),
        hang(5, "lock"),
    )
    return folder


def test_which_locks_where_since_when_and_how_long_the_waits_were(run: Run, logs: Path) -> None:
    found = overview(run, logs)
    totals = found["totals"]
    assert [
        totals[name] for name in ("forks", "programs", "hosts", "at_risk", "hung", "waited", "files")
    ] == [4, 2, 2, 1, 1, 3, 2]
    assert (totals["wait_median"], totals["wait_max"]) == (4.0, 6.0)
    lock, module = found["locks"]
    assert lock == {
        "what": "lock", "kind": "held-lock", "programs": ["app.py", "web"], "hosts": ["a", "b"], "forks": 3, "at_risk": 1,
        "hung": 1, "since": "2026-11-24T10:00:02.500Z", "until": "2026-11-24T11:00:05.000Z", "wait_median": 4.0, "wait_max": 6.0,
    }  # fmt: skip
    assert (module["what"], module["forks"], module["at_risk"], module["hosts"]) == (
        "import of x",
        1,
        0,
        ["a"],
    )
    assert [(row["program"], row["host"], row["forks"], row["hung"]) for row in found["programs"]] == [
        ("web", "b", 1, 1),
        ("app.py", "a", 3, 0),
    ]
    assert found["notes"] == []


def test_a_person_sees_one_page(run: Run, logs: Path) -> None:
    ended = run(*OVERVIEW, logs)
    assert (ended.status, ended.stderr) == (0, "")
    first, second, third, *_ = ended.stdout.splitlines()
    assert first == "forkproof: 4 forks by 2 programs on 2 hosts, 1 at risk, 1 hung"
    assert second == "  2026-11-24 10:00 to 2026-11-24 11:00 UTC, 2 files"
    assert third == "  3 waited: median 4.0 ms, 95 % up to 5.8 ms, max 6.0 ms"
    rows = [line.split() for line in ended.stdout.splitlines()]
    assert [
        "lock",
        "2",
        "programs",
        "2",
        "hosts",
        "3",
        "1",
        "1",
        "4.0",
        "ms",
        "6.0",
        "ms",
        "2026-11-24",
        "10:00",
    ] in rows


def test_patterns_several_names_and_stdin(run: Run, logs: Path) -> None:
    """A file that is meant twice counts once; a name that looks like a pattern and is a file is that file."""
    assert overview(run, "logs/*/*.jsonl*", "logs/a/forks.jsonl", cwd=logs.parent)["totals"]["forks"] == 4
    odd = written(logs.parent / "o[d]d.jsonl", fork(9))
    assert overview(run, odd)["totals"]["forks"] == 1
    assert overview(run, "-", stdin=json.dumps(fork(1)) + "\n")["totals"]["forks"] == 1


def test_what_cannot_be_read_is_left_out_and_said(run: Run, logs: Path) -> None:
    (logs / "a" / "noise.jsonl").write_bytes(b"{]\n" + json.dumps(fork(9)).encode() + b'\n{"level":"info"}\n')
    whole = (logs / "b" / "forks.jsonl.gz").read_bytes()
    (logs / "b" / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    written(logs / "c" / "newer.jsonl", fork(1, v=2))
    found = overview(run, logs, logs / "nowhere.jsonl", "none/*.jsonl")
    assert found["totals"]["forks"] == 5
    notes = " | ".join(found["notes"])
    assert "noise.jsonl: 2 lines left out: damaged, foreign, or of another version" in notes
    assert "newer.jsonl: 1 line left out" in notes
    assert "cut.jsonl.gz: could not be read, and is left out" in notes
    assert "nowhere.jsonl'" in notes
    assert "no file fits 'none/*.jsonl'; check the pattern" in notes


def test_threads_that_a_child_may_miss_count_only_where_one_hung_for_them(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    worker = fork(1)
    worker["hazards"] = [
        {"kind": "vanished-worker", "what": name, "certainty": "certain", "cleared": False} for name in "pq"
    ]
    path = written(tmp_path / "x.jsonl", worker, hang(2, "q"))
    assert [(row["what"], row["at_risk"], row["hung"]) for row in overview(run, path)["locks"]] == [
        ("q", 0, 1)
    ]


def test_the_tables_can_be_kept_for_other_questions(run: Run, logs: Path) -> None:
    import duckdb

    kept = logs.parent / "forks.duckdb"
    overview(run, "--database", str(kept), logs)
    with duckdb.connect(str(kept), read_only=True) as connection:
        asked = connection.execute(
            "SELECT host, what, count(*) FROM hazards WHERE NOT cleared GROUP BY ALL"
        ).fetchall()
    assert asked == [("a", "lock", 1)]
    ended = run(*OVERVIEW, "--database", kept, logs)
    assert (ended.status, ended.stdout) == (2, "")
    assert "is there already; name another file" in ended.stderr


def test_files_of_before_hosts_and_programs_were_written(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    old = fork(1)
    del old["host"], old["program"]
    (row,) = overview(run, written(tmp_path / "old.jsonl", old))["programs"]
    assert (row["program"], row["host"]) == ("app.py", "?")


def test_nothing_to_read_is_status_2(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    ended = run(*OVERVIEW, tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert "no *.jsonl and no *.jsonl.gz in" in ended.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--json",), "--json and --database belong to --overview"),
        (("--overview", "--html", "x"), "--overview is text or JSON"),
    ],
)
def test_options_that_do_not_go_together(run: Run, options: tuple[str, ...], says: str) -> None:
    ended = run("-m", "forkproof", "report", *options, "forks.jsonl")
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr


def test_without_duckdb_it_says_what_to_install(run: Run, tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("raise ModuleNotFoundError(name='duckdb')")
    ended = run(*OVERVIEW, tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (ended.status, ended.stderr) == (
        2,
        "forkproof: --overview needs duckdb; install it with: pip install 'forkproof[duckdb]'\n",
    )


def test_a_real_run_says_whose_it_is(run: Run, tmp_path: Path) -> None:
    import os

    script, events = tmp_path / "app.py", tmp_path / "e.jsonl"
    script.write_text("import os\nif os.fork() == 0: os._exit(0)\nos.wait()\n")
    assert run("-m", "forkproof", "run", "--events", events, script).status == 0
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [(event["host"], event["program"]) for event in told if event["event"] == "fork"] == [
        (os.uname().nodename, "app.py")
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("python -m gunicorn shop:app", "gunicorn"),
        ("python -mgunicorn shop:app", "gunicorn"),
        ("python -X dev -W ignore /usr/bin/celery -A x worker", "celery"),
        ("python -u app.py --token=secret", "app.py"),
        ("python -c print()", "-c"),
        ("python", "?"),
    ],
)
def test_a_program_goes_by_its_name_without_its_arguments(line: str, name: str) -> None:
    assert program_of(line.split()) == name
