"""In plain words what the runs of `verify` say, and no more than they say.

A change *ends* the trouble if none of its runs has it and that is no chance; it *lessens* it if fewer have it, and that
is no chance; else no difference has been shown. Chance is 1 in 20, shared among all the changes that are compared.

To wait for a hazard can make a difference only to runs in which it was there. Where some of the others have the trouble,
something else may be to blame for those; the ones in which it was there are compared with each other then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forkproof.lab.statistics import fewer, largest_unseen, runs_to_show
from forkproof.lab.verify import PAUSE, Laboratory, Row, Suspect
from forkproof.model import Hazard

Verdict = Literal["convicted", "acquitted", "open", "impossible"]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """verdict: `convicted` (a cause was found), `acquitted` (no trouble as it is), `open` (there is, and the runs do not say
    whose), `impossible` (nothing to be learnt from this program). `causes` are names of hazards."""

    verdict: Verdict
    sentences: tuple[str, ...]
    causes: tuple[str, ...] = ()


def conclude(lab: Laboratory) -> Conclusion:
    """The conclusion of all rows together."""
    cannot = _cannot(lab)
    if cannot:
        return Conclusion("impossible", (cannot,))
    as_it_is = lab.rows["as-it-is"]
    if not as_it_is.hits + lab.rows["watched"].hits:
        return _acquit(lab)
    return _Case(lab).conclude()


def _cannot(lab: Laboratory) -> str | None:
    """Why there is nothing to be learnt from this program."""
    rows = list(lab.rows.values())
    ends = [end for row in rows for end in row.ended]
    as_it_is = lab.rows["as-it-is"]
    if not any(end.outcome == "finished" for end in ends):
        first = as_it_is.ended[0]
        if all(end.outcome == "failed" for end in ends):
            last = next((line for line in reversed(first.stderr.splitlines()) if line.strip()), "")
            hint = "; verify gives it no input" if "EOF" in last else ""
            says = f" ({last.strip()[:200]})" if last else ""
            return f"The program fails, whatever is changed: exit status {first.status}{says}{hint}."
        listens = next((end.listens for end in ends if end.listens), None)
        limit = max(end.seconds for end in ends)
        if listens:
            return (
                f"The program was still there after {limit:.0f} s, whatever was changed, and listens on port {listens}: "
                "it looks like a server. verify needs a program that ends by itself."
            )
        if any(lab.rows["watched"].forks):
            return (
                f"No run ended well within {limit:.0f} s, whatever was changed. Either the program takes longer "
                "(--limit), or never ends by itself, or it waits for something that none of these changes touches, "
                "as for a thread that the child does not have."
            )
        return (
            f"The program was still there after {limit:.0f} s, whatever was changed; "
            "verify needs one that ends by itself (--limit)."
        )
    if not any(lab.rows["watched"].forks):
        return "The program made no fork that Python's hooks saw: there is nothing to vary."
    return None


def _rate(row: Row) -> str:
    return f"{row.hits} of {row.runs}"


def _trouble(rows: Sequence[Row]) -> str:
    hung, failed = sum(row.count("hung", "busy") for row in rows), sum(row.count("failed") for row in rows)
    return "hang" if not failed else "fail" if not hung else "hang or fail"


def _kind(hazard: Hazard) -> str:
    return {"import-lock": "that import lock", "native-call": "what that call holds"}.get(
        hazard.kind, "that lock"
    )


def _the(name: str) -> str:
    return f"the {name}" if name.startswith("import of ") else name


def _place(hazard: Hazard) -> str:
    """Who held it, at the innermost line that is not the standard library's."""
    thread = f"thread {hazard.thread.name!r}" if hazard.thread else "a thread"
    if not hazard.stack:
        return thread
    frame = next((frame for frame in hazard.stack if not _is_standard(frame.file)), None) or next(
        (frame for frame in hazard.stack if not frame.file.startswith("<frozen")), hazard.stack[0]
    )
    return f"{thread}, at {frame.file}:{frame.line} in {frame.function}"


def _is_standard(file: str) -> bool:
    return file.startswith("<frozen") or (
        file.startswith(os.path.dirname(os.__file__) + os.sep) and "site-packages" not in file
    )


def _where_met(suspect: Suspect, rows: Sequence[Row]) -> tuple[int, int]:
    """Of the runs in which it was there when the program came to fork: how many did not end well, and how many there are."""
    names = frozenset(suspect.all_names)
    ends = [
        end for row in rows for end, met in zip(row.ended, row.met, strict=False) if not names.isdisjoint(met)
    ]
    return sum(end.outcome != "finished" for end in ends), len(ends)


def _others(row: Row, suspect: Suspect | None = None) -> str:
    """What else was held at the forks of its runs that did not end well and that this suspect has no part in."""
    suspect = suspect or row.change.suspect
    names = frozenset(suspect.all_names if suspect else ())
    bad = [met for end, met in zip(row.ended, row.met, strict=False) if end.outcome != "finished"]
    others = sorted({name for met in bad for name in met} - names)
    return f", with {', '.join(map(_the, others[:3]))} held" if others else ""


def _acquit(lab: Laboratory) -> Conclusion:
    as_it_is, watched = lab.rows["as-it-is"], lab.rows["watched"]
    runs = as_it_is.runs + watched.runs
    forks = [fork for each in watched.forks for fork in each]
    at_risk = [fork for fork in forks if fork.risk != "none"]
    sentences = [
        f"None of {runs} runs hangs as it is. (With so many, a hang in more than {largest_unseen(runs):.0%} of runs "
        "would have shown.)"
    ]
    if at_risk:
        names = sorted(
            {
                hazard.what
                for fork in at_risk
                for hazard in fork.hazards
                if hazard.counts and not hazard.cleared
            }
        )
        sentences.append(
            f"But {len(at_risk)} of {len(forks)} forks went ahead at risk ({', '.join(names[:3])}); no child hung for it."
        )
    else:
        sentences.append(f"At none of {len(forks)} forks was another thread seen to hold anything.")
    lock = lab.row("lock")
    if lock is None:
        return Conclusion("acquitted", tuple(sentences))
    if not lock.hits:
        sentences.append(f"Nor with the emulated getaddrinfo lock: {_rate(lock)}.")
        return Conclusion("acquitted", tuple(sentences))
    sentences.append(f"With the emulated getaddrinfo lock {_rate(lock)} {_trouble([lock])}.")
    sentences += _Case(lab, base=[lock], prefix="lock-").convict()[0]
    return Conclusion("acquitted", tuple(sentences))


class _Case:
    """The rows of one base: the program as it is, or with the emulated lock (`prefix`)."""

    def __init__(self, lab: Laboratory, base: Sequence[Row] | None = None, prefix: str = "") -> None:
        self._lab = lab
        self._base = base or [lab.rows["as-it-is"], lab.rows["watched"]]
        self._prefix = prefix
        self._hits = sum(row.hits for row in self._base)
        self._runs = sum(row.runs for row in self._base)
        mine = [key for key in lab.rows if key.startswith((f"{prefix}only-", f"{prefix}without-"))]
        self._compared = len(mine) + (0 if prefix else 3)  # later, safe, imported

    def ends(self, row: Row | None) -> bool:
        return row is not None and row.hits == 0 and self._differs(row.hits, row.runs)

    def _differs(self, hits: int, runs: int) -> bool:
        return fewer(hits, runs, self._hits, self._runs) < 0.05 / max(1, self._compared)

    def _ends_where_held(self, suspect: Suspect, row: Row) -> bool:
        """Whether waiting for it ends the trouble of the runs in which it was there to be waited for.

        Those are no fair sample of all runs: they must differ from such runs of the base as well.
        """
        hits, runs = _where_met(suspect, [row])
        if row.hits == 0:
            return self.ends(row)
        base = _where_met(suspect, self._base)
        return hits == 0 and self._differs(hits, runs) and fewer(hits, runs, *base) < 0.05

    def conclude(self) -> Conclusion:
        lab, trouble = self._lab, _trouble(self._base)
        as_it_is, watched = lab.rows["as-it-is"], lab.rows["watched"]
        sentences = [f"{_rate(as_it_is)} runs {trouble} as it is, {_rate(watched)} when only watched."]
        if not self._could_show():
            needed = runs_to_show(
                self._hits, self._runs, per_change=len(self._base), compared=max(1, self._compared)
            )
            sentences.append(
                f"That is too seldom for {as_it_is.runs} runs of each change to show what ends it: more are needed "
                + (f"(--runs {needed})." if needed else "(--runs).")
            )
            return Conclusion("open", tuple(sentences))
        found, causes = self.convict()
        sentences += found
        imported = lab.row("imported")
        if imported:
            sentences.append(f"{_rate(imported)} {imported.change.title}.")
        later, safe = lab.rows["later"], lab.rows["wait"]
        if self.ends(later):
            sentences.append(
                f"{_rate(later)} when it forks {PAUSE:g} s later: a race, and this a way to lose it less often."
            )
        sentences.append(self._safe(safe))
        sentences += self._emulation()
        for method in ("forkserver", "spawn"):
            row = lab.row(method)
            if row:
                sentences.append(f"{_rate(row)} {row.change.title}.")
        return Conclusion("convicted" if causes else "open", tuple(sentences), tuple(causes))

    def _could_show(self) -> bool:
        """Whether a change that ended it altogether could be told from chance."""
        return fewer(0, self._base[0].planned, self._hits, self._runs) < 0.05 / max(1, self._compared)

    def _safe(self, row: Row) -> str:
        if row.hits == 0:
            return f"{_rate(row)} under policy wait."
        gave_up = sum(any(fork.outcome == "gave-up" for fork in forks) for forks in row.forks)
        limit = f" In {gave_up} of them a wait was given up at its limit." if gave_up else ""
        if self._differs(row.hits, row.runs):
            return f"{_rate(row)} under policy wait: less often; what it waits for is not all of it.{limit}"
        return f"{_rate(row)} under policy wait: what it waits for is not the cause, or not all of it.{limit}"

    def convict(self) -> tuple[list[str], list[str]]:
        """Sentences on the suspects, and the names of the causes."""
        singly = self._pairs("only")
        if not singly:
            return ["At the forks of those runs no other thread was seen to hold anything."], []
        enough = [(suspect, row) for suspect, row in singly if self._ends_where_held(suspect, row)]
        needed = [(s, r) for s, r in enough if self._is_needed(s, r, alone=len(singly) == 1)]
        if needed:
            words = []
            for suspect, row in needed:
                words += self._sentence(suspect, row, only=len(needed) == 1)
            return words, [suspect.name for suspect, _ in needed]
        if enough:
            names = [_the(suspect.name) for suspect, _ in enough]
            return [
                f"Waiting for one of these alone ends it: {', '.join(names)}. But so does waiting for all but that: "
                "these runs cannot tell which is the cause."
            ], []
        told = "; ".join(f"{_the(suspect.name)} ({_rate(row)})" for suspect, row in singly)
        lessen = [(suspect, row) for suspect, row in singly if self._differs(row.hits, row.runs)]
        if lessen:
            told = "; ".join(f"{_the(suspect.name)} ({_rate(row)}{_others(row)})" for suspect, row in lessen)
            return [
                f"Waiting for one of these alone makes it less frequent and does not end it: {told}. "
                "What is left these runs do not explain."
            ], []
        return [f"Waiting for one hazard alone makes no difference that these runs show: {told}."], []

    def _sentence(self, suspect: Suspect, row: Row, *, only: bool) -> list[str]:
        """Who is convicted, and on what evidence."""
        hits, runs = _where_met(suspect, [row])
        rest, among_rest = row.runs - runs, row.hits - hits
        if not row.hits:
            runs, rest = row.runs, 0
        words = [
            f"{hits} of {runs} when the fork waits for {_the(suspect.name)} and for nothing else that is held then: "
            f"{_kind(suspect.hazard)} is {'the' if only and not rest else 'a'} cause. "
            f"It was held by {_place(suspect.hazard)}."
        ]
        if rest:
            words.append(
                f"In {rest} more it was not held when the program came to fork, and {among_rest} of those "
                f"did {_trouble([row])}{_others(row, suspect)}."
            )
        without = self._without(suspect)
        if without:
            words.append(f"{_rate(without)} when it waits for everything but that.")
        return words

    def _is_needed(self, suspect: Suspect, row: Row, *, alone: bool) -> bool:
        """Whether the trouble stays when everything but this is waited for; of an only suspect the program as it is tells."""
        without = self._without(suspect)
        if without is None:
            return alone
        hits, runs = _where_met(suspect, [row])
        return fewer(*((0, row.runs) if not row.hits else (hits, runs)), without.hits, without.runs) < 0.05

    def _without(self, suspect: Suspect) -> Row | None:
        return next((row for other, row in self._pairs("without") if other.name == suspect.name), None)

    def _pairs(self, what: str) -> list[tuple[Suspect, Row]]:
        start = f"{self._prefix}{what}-"
        return [
            (row.change.suspect, row)
            for key, row in self._lab.rows.items()
            if key.startswith(start) and row.change.suspect is not None
        ]

    def _emulation(self) -> list[str]:
        lab, sentences = self._lab, []
        lock, both = lab.row("lock"), lab.row("imported-lock")
        if lock:
            sentences.append(f"{_rate(lock)} with the emulated getaddrinfo lock.")
        if both:
            sentences.append(f"{_rate(both)} {both.change.title}.")
            if lab.lock_hangs_it:
                sentences.append("On a platform with that lock:")
                sentences += _Case(lab, base=[both], prefix="lock-").convict()[0]
        return sentences
