"""The forks of one test, and what is said of them.

The guard writes its events to a private file, which is read when a phase of a test (setup, call, teardown) ends: whatever process a
fork or a hang was in, it belongs to the test that began it. What a child of an earlier test does later is told at the end.

Children are killed by the watch inside them (`on_hang="sigkill"`), so a test that waits for one goes on. Every child has a watch
here, not only those of forks at risk: a suite has time for that, and a child may also wait for what nobody was ever to do.
"""

from __future__ import annotations

import fnmatch
import io
import os
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from forkproof import guard
from forkproof.model import Born, Event, Fault, Fork, Hang, Hazard, risk_of
from forkproof.report import EventLines, Pairing, Terminal

_CHOICES = {"policy": ("observe", "wait", "raise"), "on_risk": ("fail", "warn", "ignore")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the options say. ValueError for what makes no sense."""

    policy: str = "observe"
    on_risk: str = "fail"
    hang_after: float = 5.0
    wait: float = 1.0
    child_limit: float = 0.0
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if not self.hang_after > 0 or not 0 <= self.wait <= 3600 or not self.child_limit >= 0:
            raise ValueError("hang_after must be more than 0 seconds, wait 0 to 3600, child_limit 0 or more")

    def of(self, marks: Iterable[Any]) -> Settings:
        """With what `marks`, the nearest first, say of one test. TypeError for an argument that the mark does not have."""
        settings = self
        for mark in reversed([*marks]):
            settings = _marked(settings, *mark.args, **mark.kwargs)
        return settings

    def allows(self, hazard: Hazard) -> bool:
        return any(fnmatch.fnmatchcase(text, p) for text in (hazard.kind, hazard.what) for p in self.allow)


def _marked(
    settings: Settings,
    *,
    allow: str | Iterable[str] = (),
    policy: str | None = None,
    on_risk: str | None = None,
    hang_after: float | None = None,
    reason: str = "",
) -> Settings:
    """`settings` with the arguments of one mark."""
    allowed = (allow,) if isinstance(allow, str) else tuple(allow)
    return replace(
        settings,
        allow=settings.allow + allowed,
        policy=policy or settings.policy,
        on_risk=on_risk or settings.on_risk,
        hang_after=settings.hang_after if hang_after is None else hang_after,
    )


@dataclass(slots=True)
class Verdict:
    """What there is to say of one phase of a test."""

    on_risk: str
    forks: int = 0
    at_risk: int = 0
    allowed: int = 0
    hung: int = 0
    text: str = ""
    late: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """For the report, in values that xdist can carry."""
        counts = {"forks": self.forks, "at_risk": self.at_risk, "allowed": self.allowed, "hung": self.hung}
        return {**counts, "late": self.late} if self.forks or self.hung or self.late else {}


class Session:
    """The guard, switched on for a test session, with the file that it writes to."""

    def __init__(self, settings: Settings) -> None:
        handle, self._path = tempfile.mkstemp(prefix="forkproof-pytest-", suffix=".jsonl")
        self._file = os.fdopen(handle, "rb")
        self._lines, self._pairing = EventLines(), Pairing()
        self._test = ""
        self._tests: dict[int, str] = {}  # process -> the test that forked it
        self._forks: dict[tuple[int, int], str] = {}  # (process, number of the fork) -> the test
        self._settings = settings
        self._former = _former()
        self._runners = _threads_of_runner()
        guard.exempt_threads(self._runners, "it is the test runner's, and no child's")
        self._limit = None
        if settings.child_limit:
            from .limit import Limit

            self._limit = Limit(self._path, settings.child_limit)
        self._install()

    def begin(self, test: str, settings: Settings) -> None:
        """A test begins. One before it may have changed the guard, or this one wants it otherwise."""
        self._test = test
        ours = guard._settings.writer is not None and guard._settings.writer.path == self._path
        if settings != self._settings or not ours or not guard._settings.installed:
            self._settings = settings
            self._install()

    def _install(self) -> None:
        s = self._settings
        with warnings.catch_warnings():
            if not guard.is_exact():  # then it says so, which is for the one who installs
                warnings.simplefilter("ignore")
            guard.install(
                s.policy, s.wait, True, s.hang_after, self._path,  # type: ignore[arg-type]
                warn=False, on_hang="sigkill", watch_all=True,
            )  # fmt: skip

    def judge(self) -> Verdict:
        """What happened since the last call."""
        return self._judge(self._events(last=True))

    def _judge(self, events: Iterable[Event]) -> Verdict:
        s = self._settings
        verdict = Verdict(s.on_risk)
        shown: list[Event] = []
        hangs: dict[tuple[str, str], list[Hang]] = {}
        for event in events:
            test = self._test_of(event)
            match event:
                case Fork():
                    verdict.forks += event.outcome != "refused"
                    left = self._without_allowed(event)
                    verdict.allowed += event.risk != "none" and left is None
                    if left is None:
                        continue
                    verdict.at_risk += 1
                    if s.on_risk != "ignore":
                        shown.append(left)
                case Hang():
                    verdict.hung += 1
                    if test == self._test:
                        hangs.setdefault((event.waits_for.what, event.thread.name), []).append(event)
                    else:
                        verdict.late.append(f"{test}:\n{_rendered([_in_test(event)])}")
                case Fault():
                    verdict.late.append(_rendered([event]))
        told = [_rendered(shown)] if shown else []
        for first, *others in hangs.values():
            told.append(_rendered([_in_test(first)]))
            if others:
                told.append(
                    f"{len(others)} more hung in the same way: {', '.join(str(h.pid) for h in others)}\n"
                )
        verdict.text = "\n".join(told) + _hint(shown)
        return verdict

    def last(self) -> dict[str, Any]:
        """At the end of the session: what children did since the last test."""
        self._test = ""
        return self._judge(self._events(last=True)).counts()

    def close(self) -> None:
        """Everything as it was before."""
        if self._limit is not None:
            self._limit.close()
        guard.uninstall()
        guard.exempt_threads(self._runners, None)
        if self._former is not None:
            guard.install(**self._former)
        self._file.close()
        os.unlink(self._path)

    def _events(self, *, last: bool) -> list[Event]:
        for event in self._lines.feed(self._file.read()):
            self._pairing.add(event)
        return [*self._pairing.ready(last=last)]

    def _test_of(self, event: Event) -> str:
        """The test that began it. A parent writes its `fork` before it goes on; its child's `born` may come when the test is
        over."""
        if isinstance(event, Fork):
            self._forks[event.pid, event.fork] = test = self._tests.get(event.pid, self._test)
            return test
        if isinstance(event, Born):
            self._tests[event.pid] = test = self._forks.get((event.parent, event.fork), self._test)
            return test
        if isinstance(event, Hang) and event.pid not in self._tests:
            return self._forks.get((event.parent or 0, event.fork or 0), self._test)
        return self._tests.get(event.pid, self._test)

    def _without_allowed(self, fork: Fork) -> Fork | None:
        """None if nothing is left that was at risk."""
        hazards = tuple(h for h in fork.hazards if not self._settings.allows(h))
        risk = risk_of(hazards)
        return None if risk == "none" else replace(fork, hazards=hazards, risk=risk)


def _threads_of_runner() -> list[int]:
    """Idents of the threads by which a worker of xdist talks with its controller: always in the middle of reading."""
    execnet = sys.modules.get("execnet")
    folder = os.path.dirname(getattr(execnet, "__file__", None) or "")
    if not folder:
        return []
    me = threading.get_ident()
    return [
        ident
        for ident, frame in sys._current_frames().items()
        if ident != me
        and any(f.f_code.co_filename.startswith(folder) for f, _ in traceback.walk_stack(frame))
    ]


def _former() -> dict[str, Any] | None:
    """What to install again afterwards."""
    s = guard._settings
    if not s.installed:
        return None
    return {
        "policy": s.policy, "wait": s.wait, "repair": s.repair, "hang_after": s.hang_after,
        "events": s.writer and s.writer.path, "warn": s.warn, "on_hang": s.on_hang,
        "hide_moot_warnings": bool(s.filters), "watch_all": s.watch_all,
    }  # fmt: skip


def _rendered(events: Iterable[Event]) -> str:
    stream = io.StringIO()
    terminal = Terminal(stream, width=100)
    for event in events:
        terminal.show(event)
    return stream.getvalue().rstrip() + "\n"


def _in_test(hang: Hang) -> Hang:
    """Without the frames through which pytest came to the test."""
    stack = [*hang.waits_for.stack]
    for index, frame in enumerate(stack):
        if index and f"{os.sep}_pytest{os.sep}" in frame.file:
            stack = stack[:index]
            break
    return replace(hang, waits_for=replace(hang.waits_for, stack=tuple(stack)))


def _hint(events: list[Event]) -> str:
    """How to say that it is meant so."""
    for event in events:
        if isinstance(event, Fork):
            what = next(h.what for h in event.hazards if h.counts and not h.cleared)
            return f"\nif no child needs that: @pytest.mark.forkproof(allow={what!r})"
    return ""
