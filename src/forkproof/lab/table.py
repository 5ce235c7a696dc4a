"""The table of `forkproof verify`: growing on a terminal while the runs go on, printed once elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forkproof.lab.conclude import Conclusion
from forkproof.lab.statistics import wilson
from forkproof.lab.verify import Laboratory, Row
from forkproof.report._text import clean
from forkproof.report.terminal import console

_COLOURS = {
    "convicted": "bold red",
    "acquitted": "bold green",
    "open": "bold yellow",
    "impossible": "bold yellow",
}


class Watcher:
    """Shows a laboratory's progress on stderr, if a person watches."""

    def __init__(self, quiet: bool) -> None:
        self._live: Live | None = None
        if not quiet and sys.stderr.isatty():
            # Drawn by hand: a thread that draws would be one too many here.
            self._live = Live(console=console(sys.stderr), auto_refresh=False, transient=True)
        self._drawn = 0.0

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        if self._live is None:
            yield self
        else:
            with self._live:
                yield self

    def show(self, lab: Laboratory) -> None:
        if self._live is not None and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            planned = sum(row.planned for row in lab.rows.values())
            done = sum(row.runs for row in lab.rows.values())
            bar = Text(f"{done} of {planned} runs ")
            self._live.update(Group(table(lab), bar, ProgressBar(planned, done, width=40)), refresh=True)


def table(lab: Laboratory) -> Table:
    """One row for each change."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("change", overflow="fold")
    for name in ("hang", "fail", "finish"):
        result.add_column(name, justify="right")
    result.add_column("rate (95 %)", no_wrap=True)
    result.add_column("median", justify="right", no_wrap=True)
    for row in lab.rows.values():
        result.add_row(*_cells(row))
    return result


def _cells(row: Row) -> tuple[str | Text, ...]:
    title = Text(clean(row.change.title))
    if not row.runs:
        return title, "", "", "", "", ""
    low, high = wilson(row.hits, row.runs)
    hung, failed, finished = row.count("hung", "busy"), row.count("failed"), row.count("finished")
    style = "green" if not row.hits else "red" if row.hits == row.runs else "yellow"
    rate = Text(f"{row.hits}/{row.runs} ({low:.0%} to {high:.0%})", style=style)
    median = f"{row.median:.2f} s" if row.median is not None else "-"
    return title, str(hung), str(failed), str(finished), rate, median


def print_report(lab: Laboratory, conclusion: Conclusion, stream: TextIO) -> None:
    out = console(stream)
    if conclusion.verdict != "impossible":
        out.print(table(lab))
        out.print()
    first, *others = conclusion.sentences
    out.print(Text(clean(first, 1000), style=_COLOURS[conclusion.verdict]))
    for sentence in others:
        out.print(Text(clean(sentence, 1000)))


def print_json(lab: Laboratory, conclusion: Conclusion, stream: TextIO) -> None:
    suspects = {
        row.change.suspect.name: row.change.suspect.hazard.to_json()
        for row in lab.rows.values()
        if row.change.suspect is not None
    }
    result = {
        "v": 1,
        "program": list(lab.target.line),
        "limit_seconds": lab.limit.get(),
        "changes": [row.to_json() for row in lab.rows.values()],
        "suspects": suspects,
        "verdict": conclusion.verdict,
        "causes": list(conclusion.causes),
        "conclusion": list(conclusion.sentences),
    }
    json.dump(result, stream, indent=1)
    stream.write("\n")
