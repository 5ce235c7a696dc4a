"""The rare hang: a program again and again, its threads scheduled otherwise in each run, until one hangs.

    settings.py   what is varied, drawn from the number of the run      disturb.py   that, inside the program
    hunt.py       the runs on this machine, and the account of all runs
    fleet.py      the runs on many machines, through Dask               batch.py     some of them, on one such machine
    hunted.py     progress, and what is said at the end

Where the runs are made is a generator of results, here or in `fleet`; closing it ends what still goes on. The account takes
each number once, whatever the generator does, so no run is counted twice; and a number is done only when its result is
there, so none is lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Self

from forkproof.lab.disturb import __file__ as _disturbing
from forkproof.lab.settings import Settings
from forkproof.lab.trial import Ended, Limit, Load, Run, Runs, events_of
from forkproof.launch.launcher import Options, environment, interpreter_options
from forkproof.model import Event, Fork, Hang, event_from_json
from forkproof.report import Pairing

LIMIT = 10.0
HANG_AFTER = 1.0
PLAIN_EVERY = 5
"""One run in so many has nothing varied."""
_FAILS_AT_ONCE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every run of a hunt has in common, wherever it is made."""

    line: tuple[str, ...]
    """What to run, as python's command line has it after its own options."""
    options: tuple[str, ...] = field(default_factory=lambda: tuple(interpreter_options()))
    """Python's own."""
    folder: str = field(default_factory=os.getcwd)
    policy: str | None = "observe"
    wait: float = 1.0
    limit: float | None = None
    seed: int = 0
    """Of all runs: that of the first is one more."""
    settings: str | None = None
    """The same for all runs; None: drawn anew for each."""

    def of(self, number: int) -> Settings:
        """The settings of one run."""
        if self.settings is not None:
            return Settings.parse(self.settings)
        return Settings() if number % PLAIN_EVERY == 0 else Settings.drawn(self.seed + number)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "line": tuple(data["line"]), "options": tuple(data["options"])})


@dataclass(frozen=True, slots=True)
class Result:
    """One run of the hunt. `events` only of one that hung; `forked`: whether it was seen to fork."""

    number: int
    ended: Ended
    forked: bool
    events: tuple[Event, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "events": [event.to_json() for event in self.events]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        events = map(event_from_json, data["events"])
        return cls(
            data["number"], Ended(**data["ended"]), data["forked"], tuple(event for event in events if event)
        )


def here(plan: Plan, numbers: Iterable[int], jobs: int) -> Iterator[Result]:
    """The runs so numbered, on this machine, `jobs` at a time; in the order in which they end.

    The caller has no threads.
    """
    waiting = iter(numbers)
    following = next(waiting, None)
    limit = Limit(plan.limit or LIMIT)
    slowest = 0.0
    command = [sys.executable, *plan.options, *plan.line]
    with (
        tempfile.TemporaryDirectory(prefix="forkproof-") as folder,
        Runs[tuple[int, Path]](jobs) as runs,
    ):
        while following is not None or runs:
            while following is not None and runs.has_room():
                files = Path(folder, str(following))
                files.mkdir()
                runs.add(_start(plan, following, command, files, limit), (following, files))
                following = next(waiting, None)
            for (number, files), ended in runs.ended(0.5):
                if ended.outcome == "finished":
                    slowest = max(slowest, ended.seconds)
                    if plan.limit is None:
                        limit.set(min(LIMIT, max(3.0, 10 * slowest)))
                hung = ended.outcome in ("hung", "busy")
                events = files / "events"
                yield Result(
                    number,
                    ended,
                    events.exists() and events.stat().st_size > 0,
                    tuple(_undisturbed(events_of(events))) if hung else (),
                )
                for file in files.iterdir():
                    file.unlink()
                files.rmdir()


def _start(plan: Plan, number: int, command: Sequence[str], files: Path, limit: Limit) -> Run:
    settings = plan.of(number)
    options = Options(
        policy=plan.policy, wait=plan.wait, hang_after=HANG_AFTER, change=settings.change() or None
    )
    events = files / "events"
    plain = not (options.policy or options.change)
    env = dict(os.environb) if plain else environment(options, str(events))
    load = Load(settings.load, settings.cpus()) if settings.load else None
    return Run(command, env, files / "stderr", limit, events, load)


def _undisturbed(events: Iterable[Event]) -> Iterator[Event]:
    """Each fork with its child, and the delays, which are ours, not among the frames."""
    pairing = Pairing()
    for event in events:
        pairing.add(event)
    for event in pairing.ready(last=True):
        if isinstance(event, Fork):
            hazards = tuple(
                replace(hazard, stack=tuple(frame for frame in hazard.stack if frame.file != _disturbing))
                for hazard in event.hazards
            )
            yield replace(event, hazards=hazards)
        elif isinstance(event, Hang) and event.hazard is not None:
            stack = tuple(frame for frame in event.hazard.stack if frame.file != _disturbing)
            yield replace(event, hazard=replace(event.hazard, stack=stack))
        else:
            yield event


Engine = Callable[[Plan, Iterable[int]], Iterator[Result]]


@dataclass(slots=True)
class Account:
    """What has become of the runs of a hunt so far."""

    plan: Plan
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    done: set[int] = field(default_factory=set)
    plain: int = 0
    """Runs of which nothing was varied."""
    outcomes: Counter[str] = field(default_factory=Counter)
    forked: int = 0
    failure: Ended | None = None
    """The first that failed."""
    found: Result | None = None
    """The first that hung."""
    again: Account | None = None
    """Runs with the settings of that one."""

    @property
    def runs(self) -> int:
        return len(self.done)

    @property
    def hung(self) -> int:
        return self.outcomes["hung"]

    @property
    def fails_at_once(self) -> bool:
        """Whether all there is to see is that the program fails."""
        return self.runs >= _FAILS_AT_ONCE and self.outcomes["failed"] == self.runs

    def take(self, result: Result) -> None:
        """Count a run; one that is counted already is left out."""
        if result.number in self.done:
            return
        self.done.add(result.number)
        self.seconds = time.monotonic() - self.began
        self.plain += self.plan.of(result.number).plain
        self.outcomes[result.ended.outcome] += 1
        self.forked += result.forked
        if result.ended.outcome == "hung" and self.found is None:
            self.found = result
        if result.ended.outcome == "failed" and self.failure is None:
            self.failure = result.ended


def hunt(
    account: Account,
    engine: Engine,
    *,
    runs: int | None,
    on: bool,
    again: int,
    show: Callable[[Account], None],
) -> None:
    """Fill the account: until a run hangs, or `runs` are made (None: without end); `on`: also past the first hang.

    Then the settings of the first that hung are run `again` times more. What `engine` raises comes through, and the account is
    right at every moment.
    """
    numbers: Iterator[int] = count(1)
    if runs is not None:
        numbers = islice(numbers, runs)
    with closing(engine(account.plan, numbers)) as results:  # type: ignore[type-var]  # generators have close
        for result in results:
            account.take(result)
            show(account)
            if account.fails_at_once or (account.found and not on):
                break
    if account.found is not None and again:
        settings = account.plan.of(account.found.number)
        account.again = Account(replace(account.plan, settings=str(settings)))
        with closing(engine(account.again.plan, range(1, again + 1))) as results:  # type: ignore[type-var]
            for result in results:
                account.again.take(result)
                show(account)
