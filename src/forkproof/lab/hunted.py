"""`forkproof hunt` as a person sees it: progress while the runs go on, then what hung and why, or how rare it must be."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TextIO

from forkproof.lab.hunt import Account, Engine, Plan, Result, here, hunt
from forkproof.lab.statistics import largest_unseen, wilson
from forkproof.launch.launcher import check_interpreter
from forkproof.launch.target import LaunchError, Target
from forkproof.model import Event, Fork, Hang
from forkproof.report import Terminal
from forkproof.report._text import clean

FINE, FOUND, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130


def command(
    target: Target,
    *,
    runs: int | None,
    until_hang: bool,
    keep_on: bool,
    policy: str,
    wait: float,
    limit: float | None,
    jobs: int | None,
    seed: int | None,
    settings: str | None,
    again: int,
    dask: str | None,
    events: str | None,
    as_json: bool,
) -> int:
    """Hunt, and say what came of it; the exit status. LaunchError where there is nothing to run, or nowhere."""
    check_interpreter()
    target.check()
    if until_hang and (runs is not None or keep_on):
        raise LaunchError("--until-hang ends at a hang and not before; leave out --runs and --keep-on")
    if keep_on and runs is None:
        raise LaunchError("--keep-on needs an end: --runs N")
    if keep_on and settings is not None:
        again = 0  # that is what these runs are
    engine: Engine = partial(here, jobs=jobs or len(os.sched_getaffinity(0)))
    if dask is not None:
        from forkproof.lab.fleet import on_dask

        engine = partial(on_dask, address=dask)
    account = Account(
        Plan(
            line=target.line,
            policy=None if policy == "none" else policy,
            wait=wait,
            limit=limit,
            seed=random.randrange(1 << 31) if seed is None else seed,
            settings=settings,
        )
    )
    interrupted = False
    with ExitStack() as opened:
        file = None if events is None else _writable(opened, events)
        progress = _Progress(sys.stderr)
        try:
            hunt(account, engine, runs=runs, on=keep_on, again=again, show=progress.show)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            progress.end()
        if file is not None and account.found is not None:
            file.writelines(json.dumps(event.to_json()) + "\n" for event in account.found.events)
    if as_json:
        json.dump(_json(account), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(account, sys.stdout)
    if interrupted:
        return INTERRUPTED
    return FOUND if account.found else IMPOSSIBLE if account.fails_at_once else FINE


def _writable(opened: ExitStack, name: str) -> TextIO:
    try:
        return opened.enter_context(open(name, "w", encoding="utf-8"))
    except OSError as error:
        why = f"cannot write events to {name!r}: {error.strerror}; name another file"
        raise LaunchError(why) from None


class _Progress:
    """One line that is written over where a person watches, else a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._watched = stream.isatty()
        self._every = 0.2 if self._watched else 30.0
        self._said = time.monotonic()

    def show(self, account: Account) -> None:
        now = time.monotonic()
        if now - self._said < self._every:
            return
        self._said = now
        of, text = account, ""
        if account.again is not None:
            of, text = account.again, "again: "
        rate = of.runs / of.seconds if of.seconds else 0.0
        text += f"{of.runs} runs, {rate:.1f} a second, {of.hung} hung"
        if not of.hung and account.again is None:
            text += f"; with 95 % confidence fewer than 1 in {_one_in(largest_unseen(of.runs))} hang"
        start, end = ("\r", "\x1b[K") if self._watched else ("", "\n")
        self._stream.write(f"{start}forkproof: {text}{end}")
        self._stream.flush()

    def end(self) -> None:
        if self._watched:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _one_in(rate: float) -> str:
    return f"{1 / rate:,.0f}" if rate else "any number"


def _between(low: float, high: float) -> str:
    """The bounds of a rate, as a rare one is told or as a frequent one is."""
    if high < 0.2:
        return f"1 in {_one_in(high)} to 1 in {_one_in(low)}"
    return f"{low:.0%} to {high:.0%}"


def sentences(account: Account) -> Iterator[str]:
    """What came of the runs, and no more than they say."""
    rate = (
        f"; {account.seconds:.0f} s, {account.runs / account.seconds:.1f} a second" if account.seconds else ""
    )
    if account.fails_at_once:
        yield f"The program fails: {_failure(account)}."
        return
    found, runs = account.found, account.runs
    if found is None:
        yield f"None of {runs} runs hung ({_varied(account)}{rate})."
        if runs:
            yield (
                f"With 95 % confidence fewer than 1 in {_one_in(largest_unseen(runs))} of such runs hang"
                + (
                    f", and fewer than 1 in {_one_in(largest_unseen(account.plain))} of those in which nothing is varied."
                    if 0 < account.plain < runs
                    else "."
                )
            )
    else:
        low, high = wilson(account.hung, runs)
        hung = f"Run {found.number} hung, 1" if account.hung == 1 else f"{account.hung}"
        yield (
            f"{hung} of {runs} runs{'' if account.hung == 1 else ' hung'} ({_varied(account)}{rate}; "
            f"95 %: {_between(low, high)})."
        )
        settings = account.plan.of(found.number)
        if settings.plain:
            yield "Nothing was varied in that run."
        else:
            yield f"To have it again: forkproof hunt --settings {settings}"
        if account.again is not None:
            yield f"With these settings {account.again.hung} of {account.again.runs} more runs hung."
    if account.outcomes["busy"]:
        yield f"{account.outcomes['busy']} runs were still at work after six times the limit, and are not counted as hung (--limit)."
    if account.failure is not None:
        yield f"{account.outcomes['failed']} of {runs} failed; the first: {_failure(account)}."
    if runs and account.plan.policy is not None and not account.forked:
        yield "No run made a fork that Python's hooks saw."


def _varied(account: Account) -> str:
    if account.plan.settings is not None:
        return "nothing varied" if account.plain else "the settings that were given"
    return f"scheduled otherwise in {account.runs - account.plain}, as it is in {account.plain}"


def _failure(account: Account) -> str:
    failed = account.failure
    assert failed is not None
    last = next((line.strip() for line in reversed(failed.stderr.splitlines()) if line.strip()), "")
    hint = "; it is given no input" if "EOF" in last else ""
    return f"exit status {failed.status}{f' ({clean(last, 200)})' if last else ''}{hint}"


def explaining(result: Result) -> list[Event]:
    """Of the events of a run that hung, those that say why: each hang with its fork; else the last forks at risk."""
    hangs = [event for event in result.events if isinstance(event, Hang)]
    forks = [event for event in result.events if isinstance(event, Fork)]
    if not hangs:
        return [*[fork for fork in forks if fork.risk != "none"][-2:]]
    told: list[Event] = []
    for hang in hangs:
        fork = next((fork for fork in forks if fork.child == hang.pid), None)
        told += [fork] if fork is not None and fork.risk != "none" and fork not in told else []
        told.append(hang)
    return told


def _print(account: Account, stream: TextIO) -> None:
    told = list(sentences(account))
    for sentence in told:
        stream.write(f"forkproof: {sentence}\n")
    if account.found is not None:
        stream.write("\n")
        _print_events(explaining(account.found), stream)


def _print_events(events: Iterable[Event], stream: TextIO) -> None:
    terminal, shown = Terminal(stream), False
    for event in events:
        terminal.show(event)
        shown = True
    if not shown:
        stream.write(
            "forkproof: nothing explains it: no fork was seen at risk, and no thread that waits for what a fork has left\n"
            "  behind. The doctor looks at such runs as well, where it is installed: pip install 'forkproof[doctor]'\n"
        )


def _json(account: Account) -> dict[str, Any]:
    found = account.found
    return {
        "v": 1,
        "program": list(account.plan.line),
        "policy": account.plan.policy,
        "runs": account.runs,
        "plain_runs": account.plain,
        "seconds": round(account.seconds, 3),
        "outcomes": dict(account.outcomes),
        "interval": list(wilson(account.hung, account.runs)),
        "unseen_below": None if found else largest_unseen(account.runs),
        "found": None
        if found is None
        else {
            "run": found.number,
            "settings": str(account.plan.of(found.number)),
            "events": [event.to_json() for event in explaining(found)],
        },
        "again": None if account.again is None else {"runs": account.again.runs, "hung": account.again.hung},
        "conclusion": list(sentences(account)),
    }
