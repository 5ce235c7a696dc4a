"""Controlled changes: the same program again and again, one thing about its forks changed, and which changes count.

The plan grows with what is seen. First the program as it is, watched, delayed and made safe; from the hazards that the
watched runs record come the suspects; then each suspect alone, all but that suspect, its module imported first, the
emulated lock, and multiprocessing's other start methods. `conclude.py` says what follows.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from forkproof.lab.statistics import fewer, runs_to_show, wilson
from forkproof.lab.trial import Ended, Limit, Run, Runs, events_of
from forkproof.launch.launcher import Options, check_interpreter, environment, interpreter_options
from forkproof.launch.target import Target
from forkproof.model import Fork, Hazard

RUNS, MOST_RUNS = 8, 24
LIMIT = 10.0
PAUSE = 0.1
MOST_SUSPECTS = 6
LOCK = (("getaddrinfo-lock", 0.02),)
"""With names that take 20 ms, as from a name server: one that a file answers may be there before the program forks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants. `emulate` and `preload` hold for every run."""

    runs: int | None = None
    """Of each change; None: RUNS, and where those are too few to tell from chance what ends the trouble, up to MOST_RUNS."""
    limit: float | None = None
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    emulate: tuple[tuple[str, float], ...] = ()
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A hazard, by all the names it was recorded under, and where it was seen."""

    names: tuple[str, ...]
    hazard: Hazard

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def all_names(self) -> tuple[str, ...]:
        """With the moments of an import in which importlib has no lock of a module's."""
        return (*self.names, "the import machinery") if self.module else self.names

    @property
    def module(self) -> str | None:
        """What was being imported, for whatever else that imports."""
        is_import = self.hazard.kind == "import-lock" and self.name.startswith("import of ")
        return self.name.removeprefix("import of ") if is_import else None


@dataclass(frozen=True, slots=True)
class Change:
    """What is different in a row of the table. `watched`: with Forkproof inside, which records."""

    key: str
    title: str
    policy: str | None = None
    repair: bool = False
    change: Mapping[str, Any] = field(default_factory=dict)
    emulate: tuple[tuple[str, float], ...] = ()
    suspect: Suspect | None = None

    @property
    def watched(self) -> bool:
        return self.policy is not None


@dataclass(slots=True)
class Row:
    """A change and how its runs ended."""

    change: Change
    planned: int = 0
    ended: list[Ended] = field(default_factory=list)
    forks: list[tuple[Fork, ...]] = field(default_factory=list)
    """Of each run, if it was watched."""
    met: list[frozenset[str]] = field(default_factory=list)
    """Likewise the names of what other threads held, or might have, when the program came to fork."""

    def count(self, *outcomes: str) -> int:
        return sum(end.outcome in outcomes for end in self.ended)

    @property
    def runs(self) -> int:
        return len(self.ended)

    @property
    def hits(self) -> int:
        """Runs that did not end well."""
        return self.runs - self.count("finished")

    @property
    def median(self) -> float | None:
        """Seconds, of the runs that finished."""
        times = [end.seconds for end in self.ended if end.outcome == "finished"]
        return statistics.median(times) if times else None

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change.key,
            "title": self.change.title,
            "runs": self.runs,
            "hung": self.count("hung"),
            "busy": self.count("busy"),
            "failed": self.count("failed"),
            "rate": self.hits / self.runs if self.runs else None,
            "interval": list(wilson(self.hits, self.runs)),
            "median_seconds": self.median,
        }


class Laboratory:
    """Runs changes and keeps their rows. `show` is called whenever something has happened."""

    def __init__(self, target: Target, asked: Asked, show: Callable[[Laboratory], None]) -> None:
        check_interpreter()
        target.check()
        self.target, self.asked = target, asked
        self.rows: dict[str, Row] = {}
        self.runs = asked.runs or RUNS
        self.limit = Limit(asked.limit or LIMIT)
        self.aliases: list[set[str]] = []
        self.multiprocessing = False
        self._show = show
        self._command = [sys.executable, *interpreter_options(), *target.line]

    def row(self, key: str) -> Row | None:
        return self.rows.get(key)

    def run(self, changes: Sequence[Change]) -> None:
        """Run those that have not been, a run of each in turn, so that whatever else changes on the machine changes for all
        alike; and those that have been, up to as many runs as are wanted now."""
        rows = [self.rows.setdefault(change.key, Row(change)) for change in changes]
        missing = [self.runs - row.planned for row in rows]
        for row in rows:
            row.planned = self.runs
        with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
            turns = zip_longest(*([row] * more for row, more in zip(rows, missing, strict=True)))
            self._run_all([row for turn in turns for row in turn if row], Path(folder))

    def run_enough(self, changes: Sequence[Change], base: Sequence[Change], compared: int) -> None:
        """Run `changes`; if what ends the trouble of the `base` among them could not be told from chance with so few runs
        then and can with more, more."""
        self.run(changes)
        rows = [self.rows[change.key] for change in base]
        hits, runs = sum(row.hits for row in rows), sum(row.runs for row in rows)
        if self.asked.runs is None and hits:
            needed = runs_to_show(hits, runs, per_change=len(rows), compared=compared)
            if needed is not None and self.runs < needed <= MOST_RUNS:
                self.runs = needed
                self.run(changes)

    def _run_all(self, waiting: list[Row], folder: Path) -> None:
        waiting.reverse()
        with Runs[tuple[Row, Path]](self.asked.jobs) as runs:
            while waiting or runs:
                while waiting and runs.has_room():
                    row = waiting.pop()
                    files = folder / f"{len(waiting)}"
                    files.mkdir()
                    runs.add(self._start(row.change, files), (row, files))
                for key, ended in runs.ended(0.5):
                    self._take(ended, *key)
                self._show(self)

    def _start(self, change: Change, files: Path) -> Run:
        options = Options(
            policy=change.policy,
            wait=2.0,
            repair=change.repair,
            emulate=tuple(dict(self.asked.emulate + change.emulate).items()),
            change=self._change(change, files),
        )
        plain = not (options.policy or options.emulate or options.change)
        events = str(files / "events") if change.watched else None
        env = dict(os.environb) if plain else environment(options, events)
        return Run(self._command, env, files / "stderr", self.limit)

    def _change(self, change: Change, files: Path) -> dict[str, Any]:
        preload = [*self.asked.preload, *change.change.get("preload", ())]
        made = {**change.change, **({"preload": preload} if preload else {})}
        if preload:
            first = self.target.line[0]
            by_folder = first[:2] in ("-m", "-c") or first == "-"
            made["folder"] = os.getcwd() if by_folder else os.path.dirname(os.path.abspath(first))
        if change.policy == "observe" or change.suspect is not None:
            made["facts"] = str(files / "facts")
        return made

    def _take(self, ended: Ended, row: Row, files: Path) -> None:
        row.ended.append(ended)
        met: set[str] = set()
        for fact in _facts(files / "facts"):
            if "one_lock" in fact:
                self._are_one(set(fact["one_lock"]))
            self.multiprocessing |= "multiprocessing" in fact
            met.update(fact.get("met", ()))
        if row.change.watched:
            forks = tuple(_forks(files / "events"))
            if row.change.suspect is None:
                met.update(hazard.what for fork in forks for hazard in fork.hazards if hazard.counts)
            row.forks.append(forks)
            row.met.append(frozenset(met))
        if self.asked.limit is None:
            slowest = [
                end.seconds for each in self.rows.values() for end in each.ended if end.outcome == "finished"
            ]
            if slowest:
                self.limit.set(min(LIMIT, max(3.0, 10 * max(slowest))))

    def _are_one(self, names: set[str]) -> None:
        others = []
        for known in self.aliases:
            if known & names:
                names |= known
            else:
                others.append(known)
        self.aliases = [*others, names]

    def suspects(self, row: Row) -> list[Suspect]:
        """What was at risk at the forks of runs that did not end well, the most frequent first.

        What hung a child was held at one of its run's last forks; earlier ones went well.
        """
        bad = [
            forks[-2:] for end, forks in zip(row.ended, row.forks, strict=True) if end.outcome != "finished"
        ]
        seen: Counter[str] = Counter()
        example: dict[str, Hazard] = {}
        times: Counter[str] = Counter()
        outermost: Counter[str] = Counter()
        for forks in bad:
            for fork in forks:
                for nest in _nests(fork):
                    self._are_one({hazard.what for hazard in nest})
                    outermost[nest[0].what] += 1
        for forks in bad:
            left = {
                hazard.what: hazard
                for fork in forks
                for hazard in fork.hazards
                if hazard.counts and not hazard.cleared  # a vanished worker cannot be waited for
            }
            for key in {self._first_name(name) for name in left}:
                seen[key] += 1
            times.update(left.keys())
            for name, hazard in left.items():
                if name not in example or not _has_name(example[name]):
                    example[name] = hazard
        suspects = []
        for key, _ in seen.most_common(MOST_SUSPECTS):
            known = next((known for known in self.aliases if key in known), {key})
            names = sorted(known & example.keys(), key=lambda name: (-outermost[name], -times[name], name))
            suspects.append(Suspect(tuple(names), example[names[0]]))
        return suspects

    @property
    def lock_hangs_it(self) -> bool:
        """Whether the emulated lock brings the trouble back that the imports, made first, have ended or all but ended."""
        imported, locked = self.row("imported"), self.row("imported-lock")
        return bool(
            imported
            and locked
            and locked.hits
            and (not imported.hits or fewer(imported.hits, imported.runs, locked.hits, locked.runs) < 0.05)
        )

    def _first_name(self, name: str) -> str:
        """One name for all that are one."""
        return next((min(known) for known in self.aliases if name in known), name)


def _has_name(hazard: Hazard) -> bool:
    """A thread that had ended when the fork was told of is known by its ident only."""
    thread = hazard.thread
    return thread is not None and thread.name != f"thread {thread.ident}"


def _nests(fork: Fork) -> Iterator[list[Hazard]]:
    """The imports that one thread was in the middle of, each inside the one before it."""
    by_thread: dict[int | None, list[Hazard]] = {}
    for hazard in fork.hazards:
        if hazard.kind == "import-lock" and not hazard.cleared and hazard.thread is not None:
            by_thread.setdefault(hazard.thread.ident, []).append(hazard)
    return iter(by_thread.values())


def _forks(path: Path) -> Iterator[Fork]:
    yield from (event for event in events_of(path) if isinstance(event, Fork))


def _facts(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))


AS_IT_IS = Change("as-it-is", "as it is")
WATCHED = Change("watched", "watched, nothing changed", "observe")
LATER = Change("later", f"forking {PAUSE:g} s later", change={"pause": PAUSE})
SAFE = Change("wait", "under policy wait", "wait", repair=True)


def emulated(base: Change, key: str, title: str) -> Change:
    return replace(base, key=key, title=title, emulate=LOCK)


def alone(suspects: Sequence[Suspect], prefix: str = "", base: Mapping[str, Any] = {}) -> Iterator[Change]:
    """Each suspect waited for alone; and, where there are several, all the others but that one."""
    for number, suspect in enumerate(suspects, 1):
        change = {**base, "only": suspect.all_names}
        yield Change(
            f"{prefix}only-{number}",
            f"waiting only for {suspect.name}",
            "wait",
            change=change,
            suspect=suspect,
        )
    for number, suspect in enumerate(suspects, 1):
        if len(suspects) > 1:
            change = {**base, "without": suspect.all_names}
            title = f"waiting for all but {suspect.name}"
            yield Change(f"{prefix}without-{number}", title, "wait", change=change, suspect=suspect)


def verify(target: Target, asked: Asked, show: Callable[[Laboratory], None]) -> Laboratory:
    """Make the experiments. LaunchError if the program cannot be started at all."""
    lab = Laboratory(target, asked, show)
    lab.run_enough([AS_IT_IS, WATCHED, LATER, SAFE], [AS_IT_IS, WATCHED], 4)
    as_it_is, watched = lab.rows["as-it-is"], lab.rows["watched"]
    if not any(fork for fork in watched.forks) or not any(row.count("finished") for row in lab.rows.values()):
        return lab  # nothing to vary, or nothing makes it end
    emulating = bool(asked.emulate)
    lock = emulated(WATCHED, "lock", "with the emulated getaddrinfo lock")
    if not as_it_is.hits + watched.hits:
        if not emulating:
            lab.run_enough([lock], [lock], 1)
            if lab.rows["lock"].hits:
                _convict_under_lock(lab, {}, "lock")
        return lab
    suspects = lab.suspects(watched)
    changes = list(alone(suspects))
    modules = [suspect.module for suspect in suspects if suspect.module]
    if not emulating:
        changes.append(lock)
    if modules:
        first = {"preload": modules}
        changes.append(Change("imported", f"with {', '.join(modules)} imported first", change=first))
        if not emulating:
            title = f"with the emulated lock, and {', '.join(modules)} imported first"
            changes.append(replace(emulated(WATCHED, "imported-lock", title), change=first))
    if lab.multiprocessing:
        changes += [
            Change(method, f"with multiprocessing by {method}", change={"start_method": method})
            for method in ("forkserver", "spawn")
        ]
    lab.run(changes)
    both = next((change for change in changes if change.key == "imported-lock"), None)
    if both:
        lab.run_enough([both], [both], 1)
    if lab.lock_hangs_it:
        _convict_under_lock(lab, {"preload": modules}, "imported-lock")
    return lab


def _convict_under_lock(lab: Laboratory, base: Mapping[str, Any], key: str) -> None:
    """The program hangs only with the emulated lock: who is it there?"""
    suspects = lab.suspects(lab.rows[key])
    lab.run(
        [
            replace(change, emulate=LOCK, title=f"with the emulated lock, {change.title}")
            for change in alone(suspects, "lock-", base)
        ]
    )
