"""The events as one page that can be passed on: everything in it, nothing fetched, nothing run but its own script.

What came from the program (names, paths, lines of source) reaches the page in two ways only: through the template's
autoescape, and as JSON in which no character can end the script element. The page's own policy (CSP) then forbids any script
but the one whose hash it names, and any connection. Lines of source are read from files that are Python source here and
now, and from no others: a file of events may come from anybody, and a page may go to anybody.
"""

from __future__ import annotations

import base64
import hashlib
import json
import linecache
import os
from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, TextIO

from forkproof.model import Event, Frame, Hazard, Thread
from forkproof.report._story import PROGRAM, Occasion, Standstill, Story, Use, library, origin
from forkproof.report._text import clean
from forkproof.report._words import (
    PROOFS,
    USES,
    connection,
    ending,
    had,
    is_machinery,
    number,
    sharing,
    short,
    verdict,
)
from forkproof.report.base import Renderer

_AROUND = 2
"""Lines of source shown before and after the one that matters."""
_MOST_SOURCES = 5000


class Html(Renderer):
    """Collects events; `finish` writes the page. ModuleNotFoundError, at once, without jinja2."""

    def __init__(self, stream: TextIO, *, title: str = "forks") -> None:
        import jinja2

        super().__init__(stream)
        self._story = Story()
        self._title = title
        self._notes: list[str] = []
        self._jinja = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )

    def show(self, event: Event) -> None:
        self._story.take(event)

    def begin(self) -> None:
        self._story.begin()

    def note(self, text: str) -> None:
        self._notes.append(text)

    def finish(self) -> None:
        story = self._story
        story.close()
        folder = files("forkproof.report")
        script, style = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("js", "css"))
        data = _Page(story).data()
        page = self._jinja.from_string(folder.joinpath("page.html.j2").read_text("utf-8")).render(
            title=clean(self._title),
            sentence=clean(story.sentence(), 2000),
            bad=bool(story.hung() or story.shared)
            or any(fork.risk != "none" and fork.outcome != "refused" for fork in story.forks),
            totals=story.totals(),
            notes=[clean(note) for note in self._notes],
            faults=[(fault.pid, clean(fault.message)) for _, fault in story.faults],
            span=_span(story),
            groups=_listed(story),
            script=script,
            style=style,
            script_hash=_hash(script),
            style_hash=_hash(style),
            data=_embedded(data),
        )
        self.stream.write(page.encode("utf-8", "backslashreplace").decode())


class _Table(dict[Hashable, int]):
    """Values that recur, each kept once and known by its number."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def number(self, key: Hashable, row: Any = None) -> int:
        if key not in self:
            self[key] = len(self.rows)
            self.rows.append(key if row is None else row)
        return self[key]


class _Page:
    """The story as the page's script reads it (`page.js` begins with what each entry is)."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._texts, self._frames, self._stacks = _Table(), _Table(), _Table()
        self._groups, self._hazards, self._lanes = _Table(), _Table(), _Table()
        self._sources: dict[int, Any] = {}

    def data(self) -> dict[str, Any]:
        story = self._story
        start = story.first or 0
        hangs = [
            self._hang(standstill)
            | {
                "p": standstill.process,
                "since": max(standstill.since - start, 0),
                "until": None if standstill.until is None else max(standstill.until - start, 0),
            }
            for standstill in story.hangs
        ]
        forks = [self._occasion(occasion, start) for occasion in story.occasions]
        return {
            "start": start // 1000,
            "end": (story.last or 0) - start,
            "processes": [
                [process.pid, process.parent, max(process.at - start, 0)] for process in story.processes
            ],
            "forks": forks,
            "hangs": hangs,
            "shared": [self._use(use) | {"at": max(use.at - start, 0)} for use in story.shared],
            "hazards": self._hazards.rows,
            "groups": self._groups.rows,
            "lanes": self._lanes.rows,
            "stacks": self._stacks.rows,
            "frames": self._frames.rows,
            "sources": self._sources,
            "texts": self._texts.rows,
        }

    def _occasion(self, occasion: Occasion, start: int) -> list[Any]:
        fork = occasion.fork
        if fork is None:
            return [
                max(occasion.at - start, 0),
                occasion.process,
                occasion.child,
                0,
                "lost",
                -1,
                0,
                [],
                [],
                occasion.hangs,
                self._text("went ahead; its own line is not in this file"),
                [],
                -1,
                occasion.shared,
            ]
        how, style = verdict(fork)
        return [
            max(occasion.at - start, 0),
            occasion.process,
            occasion.child,
            fork.fork,
            style,
            self._frame(fork.where),
            fork.waited_ms,
            [self._hazard(hazard, occasion) for hazard in fork.hazards],
            [self._text(ending(fork, hazard)) if hazard.counts else -1 for hazard in fork.hazards],
            occasion.hangs,
            self._text(how),
            [self._text(what) for what in dict.fromkeys((*fork.repaired, *self._repaired(occasion)))],
            self._text(fork.note),
            occasion.shared,
        ]

    def _repaired(self, occasion: Occasion) -> Iterable[str]:
        born = None if occasion.child is None else self._story.processes[occasion.child].born
        return born.repaired if born else ()

    def _hazard(self, hazard: Hazard, occasion: Occasion | None) -> int:
        lane = -1
        if hazard.thread and occasion:
            lane = self._lane(occasion.process, hazard.thread)
        key = hazard, lane
        if key in self._hazards:
            return self._hazards[key]
        stack = self._stack(hazard.stack, hazard.held_at)
        row = {
            "group": self._group(hazard.kind, hazard.what, library(hazard)),
            "certain": hazard.certainty == "certain",
            "cleared": hazard.cleared,
            "counts": hazard.counts,
            "what": self._text(hazard.what),
            "had": self._text(had(hazard)),
            "thread": self._text(hazard.thread.name) if hazard.thread else -1,
            "lane": lane,
            "stack": stack,
            "advice": self._text(hazard.advice),
        }
        return self._hazards.number(key, row)

    def _hang(self, standstill: Standstill) -> dict[str, Any]:
        hang = standstill.event
        group = (
            (hang.hazard.kind, hang.hazard.what, library(hang.hazard))
            if hang.hazard
            else (hang.waits_for.kind, hang.waits_for.what, _library(hang.waits_for.stack))
        )
        return {
            "group": self._group(*group),
            "thread": self._text(hang.thread.name),
            "lane": self._lane(standstill.process, hang.thread),
            "seconds": hang.seconds,
            "what": self._text(hang.waits_for.what),
            "stack": self._stack(hang.waits_for.stack),
            "verdict": self._text(_how(hang.verdict, hang.proof)),
            "why": self._text(
                PROOFS.get(hang.proof, "")
                if hang.hazard is None or hang.proof
                else "it fits the fork's record"
            ),
            "hazard": -1 if hang.hazard is None else self._hazard(hang.hazard, None),
            "advice": self._text(hang.advice),
            "note": self._text(hang.note),
        }

    def _use(self, use: Use) -> dict[str, Any]:
        shared = use.event
        kind, what = _about(use)
        return {
            "p": use.process,
            "group": self._group(kind, what, shared.connection.library or _library(shared.stack)),
            "thread": self._text(shared.thread.name),
            "lane": self._lane(use.process, shared.thread),
            "did": self._text(USES[shared.operation]),
            "what": self._text(what),
            "stack": self._stack(shared.stack),
            "verdict": self._text(_how(shared.verdict, shared.proof)),
            "why": self._text(sharing(shared)),
            "advice": self._text(shared.advice),
        }

    def _group(self, kind: str, what: str, of: str) -> int:
        return self._groups.number((kind, what), [self._text(kind), self._text(what), self._text(of)])

    def _lane(self, process: int, thread: Thread) -> int:
        return self._lanes.number(
            (process, thread.native_id, thread.name), [process, self._text(thread.name), thread.native_id]
        )

    def _text(self, text: str | None) -> int:
        """Its number; -1 for none. No credential gets past this."""
        return -1 if not text else self._texts.number(clean(text, 2000))

    def _stack(self, stack: tuple[Frame, ...], held_at: Frame | None = None) -> int:
        """Frames, innermost first; the one that matters; how many of them are shown at once."""
        if held_at and held_at not in stack:
            stack = (held_at, *stack)
        if not stack:
            return -1
        matters = (
            stack.index(held_at)
            if held_at
            else next((index for index, frame in enumerate(stack) if not is_machinery(frame)), 0)
        )
        key = stack, matters
        if key in self._stacks:
            return self._stacks[key]
        numbers = [self._frame(frame) for frame in stack]
        self._source(stack[matters], numbers[matters], _AROUND)
        machinery = [index for index, frame in enumerate(stack) if is_machinery(frame) and index != matters]
        return self._stacks.number(key, [numbers, matters, machinery])

    def _frame(self, frame: Frame) -> int:
        index = self._frames.number(
            frame,
            [self._text(short(frame.file)), frame.line, self._text(frame.function), origin(frame) == PROGRAM],
        )
        self._source(frame, index, 0)
        return index

    def _source(self, frame: Frame, index: int, around: int) -> None:
        """Lines of source around a frame, kept once; more of them where one was kept before."""
        if frame.line is None or len(self._sources) >= _MOST_SOURCES:
            return
        known = self._sources.get(index)
        if known is not None and (around == 0 or len(known[1]) > 1):
            return
        lines = _lines(frame.file)
        if 0 < frame.line <= len(lines):
            first = max(frame.line - around, 1)
            shown = [
                clean(line.rstrip().expandtabs(4), 240) for line in lines[first - 1 : frame.line + around]
            ]
            self._sources[index] = [first, shown]


@cache
def _lines(file: str) -> list[str]:
    """The lines of a file of Python source; none of any other file."""
    try:
        if not os.path.isfile(file):
            return []
        if not file.endswith((".py", ".pyw")):
            with open(file, "rb") as opened:
                first = opened.readline(200)
            if not (first.startswith(b"#!") and b"python" in first):
                return []
        return linecache.getlines(file)
    except (OSError, ValueError):
        return []


def _how(verdict: str, proof: str | None) -> str:
    return f"{verdict}, by {proof}" if proof else verdict


def _about(use: Use) -> tuple[str, str]:
    return "shared-connection", connection(use.event.connection)


def _library(stack: tuple[Frame, ...]) -> str:
    names = [origin(frame) for frame in stack if not is_machinery(frame)]
    return next((name for name in names if name != "Python"), names[0] if names else "native code")


def _listed(story: Story) -> list[dict[str, str]]:
    """What was held or waited for, in words: for a reader of the page whose scripts are off."""
    counts: dict[tuple[str, str], list[Any]] = {}  # forks, hung, using, advice
    for fork in story.forks:
        for kind, what, advice in dict.fromkeys((h.kind, h.what, h.advice) for h in fork.hazards):
            counts.setdefault((kind, what), [0, 0, 0, advice])[0] += 1
    for hang in story.hung():
        about = (
            (hang.hazard.kind, hang.hazard.what)
            if hang.hazard
            else (hang.waits_for.kind, hang.waits_for.what)
        )
        counts.setdefault(about, [0, 0, 0, hang.advice])[1] += 1
    for use in story.shared:
        counts.setdefault(_about(use), [0, 0, 0, use.event.advice])[2] += 1
    return [
        {
            "kind": kind,
            "what": clean(what),
            "advice": clean(advice),
            "count": ", ".join(
                filter(
                    None,
                    (
                        number(forks, "fork") if forks or not using else "",
                        f"{hung} hung" if hung else "",
                        number(using, "use") if using else "",
                    ),
                )
            ),
        }
        for (kind, what), (forks, hung, using, advice) in sorted(
            counts.items(), key=lambda item: (-item[1][1], -item[1][2], -item[1][0])
        )
    ]


def _span(story: Story) -> str:
    if story.first is None or story.last is None:
        return ""
    first, last = (datetime.fromtimestamp(at / 1e6, UTC) for at in (story.first, story.last))
    until = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M:%S}"
    return f"{first:%Y-%m-%d %H:%M:%S} to {until} UTC"


def _embedded(data: object) -> str:
    """JSON that cannot end the element that it stands in, whatever is in it."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
