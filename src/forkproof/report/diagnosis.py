"""What the doctor found in a process, for a person: who, where, the verdict and the mend first; the other threads after that."""

from __future__ import annotations

from forkproof.model import Diagnosis, Frame, Origin, ThreadView
from forkproof.report._text import clean
from forkproof.report._words import place, trimmed
from forkproof.report.terminal import Terminal

_MOST = 40


class Doctor(Terminal):
    """Writes diagnoses as the terminal report writes forks and hangs."""

    def diagnosis(self, found: Diagnosis) -> None:
        """Show one process."""
        words, style = _verdict(found)
        python = f", Python {found.python}" if found.python else ""
        self._say(
            ("forkproof: ", ""),
            (f"process {found.pid}", "bold"),
            (f" ({clean(found.command, 120)}){python}: ", ""),
            (words, style),
        )
        worst = next((view for view in found.threads if view.verdict == found.verdict), None)
        if worst and found.verdict != "none":
            self._say((clean(found.cause), ""), indent=2)
            self._frames(worst.stack, shown=8)
            if found.hazard and found.hazard.stack:
                gone = found.hazard.kind == "vanished-worker"
                self._say(
                    ("in the parent, " if gone else "at the fork, ", "dim"),
                    (clean(found.hazard.what), "bold"),
                    (" is at work here:" if gone else " was held here:", ""),
                    indent=2,
                )
                self._stack(found.hazard.stack)
        if found.advice:
            self._say(("help: ", "good"), (clean(found.advice), ""), indent=2)
        self._origin(found.origin)
        for note in found.notes:
            self._say(("note: ", "doubt"), (clean(note), ""), indent=2)
        others = [view for view in found.threads if view is not worst or found.verdict == "none"]
        for view in others[:_MOST]:
            self._thread(view)
        if len(others) > _MOST:
            self._say((f"and {len(others) - _MOST} more threads", "dim"), indent=2)
        self._say()
        self._flush()

    def _origin(self, origin: Origin) -> None:
        if origin.seconds is None:
            how = "and has not exec'd since" if origin.forked else "by exec: it is no fork's child"
            self._say(("forked: " if origin.forked else "started: ", "dim"), (how, ""), indent=2)
            return
        if not origin.forked:
            self._say(
                ("started: ", "dim"),
                (f"{_ago(origin.seconds)}, by exec: it is no fork's child", ""),
                indent=2,
            )
            return
        begin = f"{_ago(origin.seconds)} ({origin.since}), not exec'd since, "
        if origin.parent is None:
            text = begin + "from a process that has ended or exec'd since, or may not be looked at"
        else:
            names = ", ".join(clean(thread.name, 30) for thread in origin.threads[:8])
            count = len(origin.threads)
            older = f"; {origin.vanished} of them older than the fork" if origin.vanished else ""
            has = f"{count} thread{'' if count == 1 else 's'} now ({names}{', ...' if count > 8 else ''}){older}"
            text = f"{begin}from {origin.parent} ({clean(origin.command, 80)}), which has {has}"
        self._say(("forked: ", "dim"), (text, ""), indent=2)

    def _thread(self, view: ThreadView) -> None:
        verdict = f" [{view.verdict}]" if view.verdict != "none" else ""
        self._say(
            (clean(view.thread.name, 60), "bold"),
            (f" ({view.thread.native_id}) {clean(view.does)}{verdict}", ""),
            indent=2,
        )
        if view.because:
            self._say((clean(view.because), "dim"), indent=4)
        self._frames(view.stack, shown=3)

    def _frames(self, stack: tuple[Frame, ...], *, shown: int) -> None:
        """As other stacks, but compiled code below the innermost Python frame in one line."""
        python = [frame for frame in stack if frame.line is not None]
        inner = stack[: stack.index(python[0])] if python else stack
        if any(not _is_c_library(frame.file) for frame in inner):
            # From the outermost in: who asked for it comes first.
            calls = " > ".join(
                f"{clean(frame.function, 60)} ({_base(frame.file)})" for frame in inner[:-5:-1]
            )
            self._say(("in ", "dim"), (calls, ""), indent=4)
        for frame in trimmed(python, shown) if python else ():
            if frame is None:
                self._say((self._dots, "dim"), indent=4)
            else:
                self._say(("at ", "dim"), (place(frame), ""), indent=4)
                self._source(frame, indent=8)


def _is_c_library(path: str) -> bool:
    """Whose functions say only how a thread waits, not for what."""
    return _base(path).startswith(("libc.so", "libc-", "libpthread", "ld-"))


def _base(path: str) -> str:
    return clean(path.rpartition("/")[2], 60)


def _verdict(found: Diagnosis) -> tuple[str, str]:
    match found.verdict:
        case "proven":
            return f"deadlock, proven (by {found.proof})", "bad"
        case "likely":
            return "deadlock, likely", "bad"
        case "unknown":
            return "stands still; whether for ever cannot be told", "doubt"
    return found.cause.partition(":")[0], "good"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
