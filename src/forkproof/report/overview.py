"""The files of many programs and hosts answered at once: which locks, where, since when, and how long the waits were.

DuckDB reads the files, all processors at work and its memory bounded, into a database that is thrown away unless a
name for it is given; `overview.sql` is its schema and the questions. Guarantee: a file that cannot be read, or a line, is left
out and told of; no answer is given of nothing.
"""

from __future__ import annotations

import datetime
import importlib.resources
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from forkproof.report._text import clean
from forkproof.report._words import duration, number
from forkproof.report.command import ReportError, all_files

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
_MOST = 20


def overview(names: Sequence[str], *, database: str | None, as_json: bool) -> int:
    """Answer on stdout; the exit status, 2 if there was nothing to read.

    `database` keeps the tables in a file of that name. ReportError where DuckDB is not installed, or that cannot be written.
    """
    try:
        import duckdb
    except ModuleNotFoundError:
        raise ReportError(
            "--overview needs duckdb; install it with: pip install 'forkproof[duckdb]'"
        ) from None
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        if database is not None and os.path.exists(database):
            raise ReportError(f"{database!r} is there already; name another file, or remove it")
        path = os.path.abspath(database) if database is not None else os.path.join(folder, "events.duckdb")
        try:
            connection = duckdb.connect(path)
        except duckdb.Error as error:
            raise ReportError(f"cannot write to {path!r}: {_line(error)}; name another file") from None
        with connection:
            spill = os.path.join(folder, "spill").replace("'", "''")
            connection.execute(f"SET memory_limit = '{MEMORY}'")
            connection.execute(f"SET temp_directory = '{spill}'")
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET enable_progress_bar = false")
            files = _load(connection, names, notes)
            if not files:
                sys.stderr.writelines(f"forkproof: {note}\n" for note in notes)
                return 2
            found = {name: _ask(connection, name) for name in ("totals", "locks", "programs", "left_out")}
    for row in found["left_out"]:
        notes.append(
            f"{row['source']}: {number(row['lines'], 'line')} left out: damaged, foreign, or of another version"
        )
    if as_json:
        totals = {**found["totals"][0], "files": files}
        answer = {
            "v": 1,
            "totals": totals,
            "locks": found["locks"],
            "programs": found["programs"],
            "notes": notes,
        }
        json.dump(answer, sys.stdout, indent=1, default=_time)
        sys.stdout.write("\n")
    else:
        _print(files, found, notes, sys.stdout)
    return 0


def statements() -> dict[str, str]:
    """The statements of overview.sql, by name."""
    text = importlib.resources.files("forkproof.report").joinpath("overview.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _load(connection: duckdb.DuckDBPyConnection, names: Sequence[str], notes: list[str]) -> int:
    """Read the files into the tables; how many could be."""
    import duckdb

    sql = statements()
    for name in ("events", "forks", "hazards", "hangs"):
        connection.execute(sql[name])
    sorts: dict[str, list[str]] = {"uncompressed": [], "gzip": []}
    for name in dict.fromkeys(all_files(names, notes)):
        path = "/dev/stdin" if name == "-" else name
        try:
            if path == name:
                with open(path, "rb") as file:
                    packed = file.read(2) == b"\x1f\x8b"
            else:
                packed = False
        except OSError as error:
            notes.append(f"cannot read {name!r}: {error.strerror}; check the path")
            continue
        sorts["gzip" if packed else "uncompressed"].append(re.sub(r"([*?\[])", r"[\1]", path))
    read = 0
    for compression, paths in sorts.items():
        if not paths:
            continue
        try:
            connection.execute(sql["load"], {"files": paths, "compression": compression})
            read += len(paths)
        except duckdb.Error:  # which of them?
            for path in paths:
                try:
                    connection.execute(sql["load"], {"files": [path], "compression": compression})
                    read += 1
                except duckdb.Error as error:
                    notes.append(f"{path}: could not be read, and is left out: {_line(error)}")
    return read


def _ask(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    asked = connection.execute(statements()[name])
    columns = [column[0] for column in asked.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in asked.fetchall()]


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def _time(value: Any) -> str:
    assert isinstance(value, datetime.datetime)
    return value.isoformat(timespec="milliseconds") + "Z"


def _print(files: int, found: dict[str, list[dict[str, Any]]], notes: Sequence[str], stream: TextIO) -> None:
    from rich.table import Table
    from rich.text import Text

    from forkproof.report.terminal import console

    out = console(stream)
    totals = found["totals"][0]
    bad = totals["at_risk"] or totals["hung"]
    said = [
        f"{number(totals['forks'], 'fork')} by {number(totals['programs'], 'program')} on {number(totals['hosts'], 'host')}",
        f"{totals['at_risk']} at risk" if totals["at_risk"] else "none at risk",
        *([f"{totals['refused']} refused"] if totals["refused"] else []),
        *([f"{totals['hung']} hung"] if totals["hung"] else []),
    ]
    out.print(Text(f"forkproof: {', '.join(said)}", style="bold red" if bad else "bold green"))
    if totals["since"]:
        out.print(f"  {_minute(totals['since'])} to {_minute(totals['until'])} UTC, {number(files, 'file')}")
    if totals["waited"]:
        out.print(
            f"  {totals['waited']} waited: median {duration(totals['wait_median'])}, 95 % up to "
            f"{duration(totals['wait_95'])}, max {duration(totals['wait_max'])}"
        )

    def table(title: str, columns: Sequence[tuple[str, bool]], rows: Sequence[tuple[str, ...]]) -> None:
        if not rows:
            return
        made = Table(
            box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style=""
        )
        for name, is_text in columns:
            made.add_column(
                name,
                justify="left" if is_text else "right",
                overflow="fold",
                no_wrap=not is_text or name != "what",
            )
        for row in rows[:_MOST]:
            made.add_row(*(Text(cell) for cell in row))
        out.print()
        out.print(made)
        if len(rows) > _MOST:
            out.print(f"and {len(rows) - _MOST} more (--json has all)")

    numbers = [("forks", False), ("at risk", False), ("hung", False)]
    times = [("wait", False), ("max", False), ("since", False)]
    table(
        "What was held, or waited for, when a program forked",
        [("what", True), ("program", True), ("host", True), *numbers, *times],
        [
            (
                clean(row["what"], 120),
                _one_or_many(row["programs"], "program"),
                _one_or_many(row["hosts"], "host"),
                *_numbers(row),
                *_times(row),
            )
            for row in found["locks"]
        ],
    )
    table(
        "Programs",
        [("program", True), ("host", True), *numbers, *times],
        [
            (clean(row["program"], 60), clean(row["host"], 60), *_numbers(row), *_times(row))
            for row in found["programs"]
        ],
    )
    for note in notes:
        out.print(Text(f"forkproof: {clean(note, 1000)}", style="yellow"))


def _numbers(row: dict[str, Any]) -> tuple[str, str, str]:
    return str(row["forks"]), str(row["at_risk"]), str(row["hung"])


def _times(row: dict[str, Any]) -> tuple[str, str, str]:
    """The median wait of those that waited, the longest, and since when."""
    waits = [duration(row[name]) if row[name] is not None else "-" for name in ("wait_median", "wait_max")]
    return waits[0], waits[1], _minute(row["since"])


def _one_or_many(names: Sequence[str], noun: str) -> str:
    return clean(names[0], 40) if len(names) == 1 else number(len(names), noun)


def _minute(time: datetime.datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "-"
