"""The events as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open.

Each process has a track of its forks and one for each thread that held or waited for something; an arrow (a flow) leads from a
fork to its child. The format: "Trace Event Format" of the Chromium project. What Perfetto's importer asks beyond it: ids of
tracks that no two processes share, and slices of one track that lie in each other or apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from forkproof.model import Event, Frame, Thread
from forkproof.report._story import Occasion, Story, Use
from forkproof.report._text import clean
from forkproof.report._words import USES, connection, ending, had, place, sharing, verdict
from forkproof.report.base import Renderer

_FORKS = 1 << 30
"""From here on, the numbers of the tracks that are no threads: larger than any thread id of Linux."""

_Slice = dict[str, Any]


class Perfetto(Renderer):
    """Collects events; `finish` writes the trace."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._story = Story()
        self._notes: list[str] = []
        self._tracks: dict[tuple[int, int | str | None], int] = {}
        self._slices: dict[int, list[_Slice]] = {}
        self._names: list[_Slice] = []

    def show(self, event: Event) -> None:
        self._story.take(event)

    def begin(self) -> None:
        self._story.begin()

    def note(self, text: str) -> None:
        self._notes.append(text)

    def finish(self) -> None:
        self._story.close()
        trace = {
            "traceEvents": list(self._events()),
            "displayTimeUnit": "ms",
            "otherData": {
                "tool": "forkproof",
                "summary": clean(self._story.sentence(), 2000),
                "notes": [clean(note) for note in self._notes],
            },
        }
        json.dump(trace, self.stream, separators=(",", ":"))
        self.stream.write("\n")

    def _events(self) -> Iterator[_Slice]:
        story = self._story
        flows: list[_Slice] = []
        for number, occasion in enumerate(story.occasions):
            track = self._fork_track(occasion.process)
            self._fork(occasion, track)
            if occasion.child is not None and occasion.fork is not None:
                child = story.processes[occasion.child]
                there = self._fork_track(occasion.child)
                born = max(child.at, occasion.at)
                self._slice(
                    occasion.child,
                    there,
                    "born",
                    born,
                    born + 1,
                    {"parent": story.processes[occasion.process].pid},
                )
                flow = {"cat": "fork", "name": "fork", "id": number + 1}
                flows.append(
                    flow | {"ph": "s", "ts": occasion.at, "pid": self._pid(occasion.process), "tid": track}
                )
                flows.append(
                    flow | {"ph": "f", "bp": "e", "ts": born, "pid": self._pid(occasion.child), "tid": there}
                )
        for standstill in story.hangs:
            hang = standstill.event
            track = self._track(standstill.process, hang.thread)
            until = (
                standstill.until
                if standstill.until is not None
                else max(story.last or 0, standstill.since + 1)
            )
            name = f"{'waits' if standstill.until is None else 'waited'} for {clean(hang.waits_for.what)}"
            about = {
                "verdict": hang.verdict,
                "proof": hang.proof,
                "advice": clean(hang.advice),
                "stack": _places(hang.waits_for.stack),
            }
            self._slice(standstill.process, track, name, standstill.since, until, about)
        uses = [self._use(use) for use in story.shared]
        yield from self._names
        for slices in self._slices.values():
            yield from _nested(slices)
        yield from flows
        yield from uses
        for at, fault in story.faults:
            yield {
                "ph": "i",
                "s": "p",
                "name": f"fault of forkproof's own: {clean(fault.message)}",
                "cat": "fault",
                "ts": at,
                "pid": fault.pid,
                "tid": fault.pid,
            }

    def _fork(self, occasion: Occasion, track: int) -> None:
        fork = occasion.fork
        if fork is None:
            return
        since = occasion.at - int(min(fork.waited_ms, 1e12) * 1000)
        number = f"fork {fork.fork}" if fork.fork else "fork"
        about = {
            "risk": fork.risk,
            "outcome": fork.outcome,
            "where": place(fork.where),
            "repaired": [clean(what) for what in fork.repaired],
        }
        self._slice(occasion.process, track, f"{number} {verdict(fork)[0]}", since, occasion.at + 1, about)
        for hazard in fork.hazards:
            if hazard.thread is None:
                continue
            about = {
                "kind": clean(hazard.kind),
                "certainty": hazard.certainty,
                "ended": ending(fork, hazard),
                "advice": clean(hazard.advice),
                "stack": _places(hazard.stack),
            }
            on = self._track(occasion.process, hazard.thread)
            self._slice(
                occasion.process, on, f"{had(hazard)} {clean(hazard.what)}", since, occasion.at + 1, about
            )

    def _use(self, use: Use) -> _Slice:
        shared = use.event
        return {
            "ph": "i",
            "s": "t",
            "name": f"{USES[shared.operation]} a shared {clean(connection(shared.connection))}",
            "cat": "shared-connection",
            "ts": use.at,
            "pid": self._pid(use.process),
            "tid": self._track(use.process, shared.thread),
            "args": {
                "verdict": shared.verdict,
                "proof": shared.proof,
                "because": sharing(shared),
                "advice": clean(shared.advice),
                "stack": _places(shared.stack),
            },
        }

    def _slice(
        self, process: int, track: int, name: str, since: int, until: int, args: dict[str, Any]
    ) -> None:
        self._slices.setdefault(track, []).append(
            {
                "ph": "X",
                "name": name,
                "cat": "forkproof",
                "ts": since,
                "dur": max(until - since, 1),
                "pid": self._pid(process),
                "tid": track,
                "args": args,
            }
        )

    def _pid(self, process: int) -> int:
        return self._story.processes[process].pid

    def _fork_track(self, process: int) -> int:
        if (process, None) not in self._tracks:
            self._name("process_name", process, self._pid(process), f"process {self._pid(process)}")
        return self._track_of(process, None, "forks", _FORKS + process)

    def _track(self, process: int, thread: Thread) -> int:
        self._fork_track(process)
        made_up = _FORKS * 2 + len(self._tracks)
        return self._track_of(
            process, thread.native_id or thread.name, clean(thread.name, 100), thread.native_id or made_up
        )

    def _track_of(self, process: int, key: int | str | None, name: str, number: int) -> int:
        if (process, key) not in self._tracks:
            self._tracks[process, key] = number
            self._name("thread_name", process, number, name)
        return self._tracks[process, key]

    def _name(self, what: str, process: int, track: int, name: str) -> None:
        self._names.append(
            {
                "ph": "M",
                "name": what,
                "ts": 0,
                "pid": self._pid(process),
                "tid": track,
                "args": {"name": name},
            }
        )


def _nested(slices: list[_Slice]) -> Iterator[_Slice]:
    """The slices of one track, none of which reaches over another's end: one that would is cut there."""
    open_until: list[int] = []
    for item in sorted(slices, key=lambda item: (item["ts"], -item["dur"])):
        while open_until and open_until[-1] <= item["ts"]:
            open_until.pop()
        end = item["ts"] + item["dur"]
        if open_until and end > open_until[-1]:
            end = open_until[-1]
        open_until.append(end)
        yield item | {"dur": end - item["ts"]}


def _places(stack: tuple[Frame, ...]) -> list[str]:
    return [place(frame) for frame in stack[:20]]
