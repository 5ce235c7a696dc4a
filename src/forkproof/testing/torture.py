"""Forks at every bad moment of somebody's code, so that whether it lives through a fork is not a matter of luck.

A bad moment is made certain: the call runs in a thread under a trace function, which parks it at one line after another; while it
is parked there, what it holds is asked (as at any fork), and the process forked. The child, which has that thread no more, must
get through the check. First a walk that only asks, at each line in each way of coming there; then forks at those lines where
something was held (all that is different) and at as many others as were asked for; then forks at random moments, with several
threads that run the call over and over, for what happens inside of one line.

All of it in a process forked for it: the caller's own is left as it was, and the first call is really the first.
"""

from __future__ import annotations

import _imp
import io
import json
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from forkproof.model import Event, Fork, Frame, Hang
from forkproof.report import EventLines, Pairing, Terminal

_HANG_AFTER = 1.5
_MOST_MOMENTS = 5000
_MOST_FAILURES = 3  # of different kinds that are told
_MOST_HANGS = 4  # that are waited for
_EACH_KIND = 5
_ASLEEP = 5  # looks, a fifth of a second apart, after which a fork counts as blocked

_Key = tuple[tuple[str, int, int], ...]


class TortureError(AssertionError):
    """A child of a fork did not get through."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done, when all children got through."""

    moments: int
    """Lines at which the call was looked at, in each way of coming there."""
    held: int
    """At how many of them it held something that a child may need."""
    forks: int


class Torture:
    """`fork_torture`: see its call."""

    def __call__(
        self,
        call: Callable[[], object],
        *,
        threads: int = 2,
        forks: int = 100,
        check: Callable[[], object] | None = None,
        limit: float = 30.0,
        each: str = "line",
    ) -> Tally:
        """Fork at every bad moment of `call`, and have each child run `check` (by default `call` itself).

        threads  how many run `call` over and over while forks are made at random moments.
        forks    how many forks are made: three quarters at chosen lines, the rest at random moments.
        check    what a child must get through without an exception.
        limit    seconds that a child may take; one that demonstrably hangs is not waited for as long.
        each     "line", or "instruction" for moments within lines as well.

        Fails with what the vanished thread held, where it stood, and where the child hung. RuntimeError if `call` itself
        fails without any fork.
        """
        if each not in ("line", "instruction"):
            raise ValueError(f"each must be 'line' or 'instruction', not {each!r}")
        if forks < 1 or threads < 1:
            raise ValueError("forks and threads must be 1 or more")
        job = _Job(call, check or call, limit, each)
        walk = _staged(job.walk, limit * 4)
        _complain(walk)
        moments = [(_key(m["key"]), tuple(m["held"])) for m in walk["moments"]]
        chosen = _choose(moments, max(forks * 3 // 4, 1))
        at_lines = _staged(lambda: job.at(chosen), limit * (4 + _MOST_FAILURES) + len(chosen))
        _complain(at_lines)
        failures, made = at_lines["failures"], at_lines["forks"]
        if not failures:
            at_random = _staged(lambda: job.at_random(threads, max(forks // 4, 1)), limit * 4 + forks)
            _complain(at_random)
            failures, made = at_random["failures"], made + at_random["forks"]
        tally = Tally(len(moments), sum(bool(held) for _, held in moments), made)
        if failures:
            self.fail(_told(failures, tally))
        return tally

    def fail(self, text: str) -> None:
        raise TortureError(text)


def _key(parts: Sequence[Sequence[Any]]) -> _Key:
    return tuple((str(file), int(first), int(at)) for file, first, at in parts)


def _complain(result: dict[str, Any]) -> None:
    if result.get("error"):
        raise RuntimeError(f"fork_torture could not begin or go on:\n{result['error']}")


def _choose(moments: Sequence[tuple[_Key, tuple[str, ...]]], most: int) -> set[_Key]:
    """Of each sort of holding some, first to last; of the others as many as there is room for."""
    kinds: dict[tuple[str, ...], list[_Key]] = {}
    for key, held in moments:
        kinds.setdefault(held, []).append(key)
    others = kinds.pop((), [])
    chosen: dict[_Key, None] = {}
    for rank in range(_EACH_KIND):
        for keys in kinds.values():
            some = _spread(keys, _EACH_KIND)
            if rank < len(some) and len(chosen) < most:
                chosen[some[rank]] = None
    for key in _spread(others, most - len(chosen)):
        chosen[key] = None
    return set(chosen)


def _spread(items: list[_Key], most: int) -> list[_Key]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)] if most > 0 else []


# ----------------------------------------------------------------------------------------------------------------------
# A process for it


def _staged(work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """What `work()` returns, run in a process forked for it, which ends with all that it started."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # CPython's own, which is of no use here; as an error it would come out of os.fork() in both processes (3.15).
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        try:
            os.setpgid(0, 0)
            os.close(reading)
            try:
                result = work()
            except BaseException:
                result = {"error": traceback.format_exc()}
            with os.fdopen(writing, "w") as file:
                file.write(json.dumps(result) + "\n")
        finally:
            os._exit(0)
    with suppress(OSError):
        os.setpgid(pid, pid)  # in both, as neither knows who comes first
    os.close(writing)
    try:
        said = _read(reading, limit)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if said is None:
        return {"error": f"the process in which the forks are made did not end within {limit:g} s"}
    return (
        json.loads(said) if said else {"error": "the process in which the forks are made ended unexpectedly"}
    )


def _read(descriptor: int, limit: float) -> bytes | None:
    until = time.monotonic() + limit
    said = b""
    while select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
        piece = os.read(descriptor, 1 << 16)
        said += piece
        if not piece or piece.endswith(
            b"\n"
        ):  # whoever was left behind in there may have the pipe open still
            return said
    return None


class _Job:
    """What is run in that process."""

    def __init__(
        self, call: Callable[[], object], check: Callable[[], object], limit: float, each: str
    ) -> None:
        self._call, self._check, self._limit, self._each = call, check, limit, each

    def walk(self) -> dict[str, Any]:
        """Every moment, and what is held at it."""
        from forkproof import guard

        guard.install("observe", hang_after=float("inf"), warn=False)
        moments: list[dict[str, Any]] = []
        guard.at_risk()  # what that imports is not to be imported while a thread stands still in an import
        with _Parked(self._call, self._each, None) as parked:
            for key, _frame in parked:
                held = {h.what for h in guard.at_risk() if h.thread and h.thread.ident == parked.ident}
                moments.append({"key": key, "held": sorted(held)})
                if len(moments) == _MOST_MOMENTS:
                    break
        return {"moments": moments, "error": parked.error}

    def at(self, chosen: set[_Key]) -> dict[str, Any]:
        """A fork at each of the chosen moments."""
        failures: list[dict[str, Any]] = []
        seen: set[object] = set()
        made = failed = 0
        with _Forks(self._check, self._limit) as forks, _Parked(self._call, self._each, chosen) as parked:
            for _key, frame in parked:
                made += 1
                failure = forks.make(parked.unblock)
                parked.blocked = False
                if failure is not None:
                    failed += 1
                    failure["moment"] = frame
                    kind = failure["what"] or (frame[0], frame[1])
                    if kind not in seen:
                        seen.add(kind)
                        failures.append(failure)
                    if len(failures) == _MOST_FAILURES or failed == _MOST_HANGS:
                        break
        return {"failures": failures, "forks": made, "error": parked.error}

    def at_random(self, threads: int, forks: int) -> dict[str, Any]:
        """Forks while some threads run the call over and over."""
        errors: list[str] = []

        def work() -> None:
            try:
                while True:
                    self._call()
            except BaseException:
                errors.append(traceback.format_exc())

        failures: list[dict[str, Any]] = []
        chance = random.Random(0)
        made = 0
        with _Forks(self._check, self._limit) as children:
            for index in range(threads):
                threading.Thread(target=work, name=f"torture-{index + 1}", daemon=True).start()
            for _ in range(forks):
                time.sleep(chance.random() * 0.002)
                made += 1
                failure = children.make(None)
                if failure is not None or errors:
                    failures += [failure] if failure is not None else []
                    break
        return {"failures": failures, "forks": made, "error": "" if failures else "".join(errors[:1])}


class _Parked:
    """A thread that runs the call twice, and stands still at each new moment until the next is asked for.

    Pipes, not locks: what it stands at is nothing that a look could take for something held.
    """

    def __init__(self, call: Callable[[], object], each: str, wanted: set[_Key] | None) -> None:
        self._call, self._wanted = call, wanted
        self._event = "line" if each == "line" else "opcode"
        self._seen: set[_Key] = set()
        self._arrived, self._arrives = os.pipe()
        self._goes, self._go = os.pipe()
        self._at: tuple[_Key, list[Any]] = ((), [])
        self._free = self._is_parked = False
        self.blocked = False  # a fork waits for it, so that it must not stand still
        self.error = ""
        self.ident = 0

    def __enter__(self) -> _Parked:
        self._thread = threading.Thread(target=self._run, name="torture", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._free = True
        self.let_go()

    def __iter__(self) -> Iterator[tuple[_Key, list[Any]]]:
        while os.read(self._arrived, 1) == b".":
            if self._is_parked:  # and was not let go since
                yield self._at
                self.let_go()

    def let_go(self) -> None:
        if self._is_parked:
            self._is_parked = False
            os.write(self._go, b".")

    def unblock(self) -> None:
        self.blocked = True
        self.let_go()

    def _run(self) -> None:
        self.ident = threading.get_ident()
        if self._event == "opcode":
            sys._getframe().f_trace_opcodes = (
                True  # 3.12 asks for it when the trace function is set, not later
            )
        sys.settrace(self._enter)
        try:
            for _ in range(2):
                self._call()
        except BaseException:
            sys.settrace(None)
            self.error = traceback.format_exc()
        finally:
            sys.settrace(None)
            os.write(self._arrives, b"!")

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        if self._free or frame.f_code.co_filename == __file__:
            return None
        if self._event == "opcode":
            frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == self._event and not self._free and not self.blocked:
            key = self._key(frame)
            # Not while it has the import lock: os.fork() takes that, so it would not come to a fork.
            if key not in self._seen and not _imp.lock_held():
                self._seen.add(key)
                if self._wanted is None or key in self._wanted:
                    code = frame.f_code
                    self._at = (key, [code.co_filename, frame.f_lineno, code.co_qualname])
                    self._is_parked = True
                    os.write(self._arrives, b".")
                    os.read(self._goes, 1)
        return self._step

    def _key(self, frame: FrameType) -> _Key:
        """The moment, and how it came there: three frames deep."""
        key: list[tuple[str, int, int]] = []
        caller: FrameType | None = frame
        while caller is not None and len(key) < 3 and caller.f_code.co_filename != __file__:
            at = caller.f_lasti if self._event == "opcode" else caller.f_lineno
            key.append((caller.f_code.co_filename, caller.f_code.co_firstlineno, at))
            caller = caller.f_back
        return tuple(key)


class _Forks:
    """Forks that are watched, and what became of their children."""

    def __init__(self, check: Callable[[], object], limit: float) -> None:
        self._check, self._limit = check, limit
        handle, self._path = tempfile.mkstemp(prefix="forkproof-torture-", suffix=".jsonl")
        self._file = os.fdopen(handle, "rb")
        self._lines = EventLines()

    def __enter__(self) -> _Forks:
        from forkproof import guard

        guard.install(
            "observe", hang_after=min(_HANG_AFTER, self._limit), events=self._path,
            warn=False, on_hang="sigkill", watch_all=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        os.unlink(self._path)

    def make(self, let_go: Callable[[], None] | None) -> dict[str, Any] | None:
        """None if the child got through. `let_go` lets the parked thread go where the fork waits for it: a library whose own
        at-fork hook takes its lock before the fork does that, and is right to."""
        reading, writing = os.pipe()
        forked = threading.Event()
        if let_go is not None:
            arguments = (threading.get_native_id(), forked, let_go)
            threading.Thread(target=_let_go_if_blocked, args=arguments, daemon=True).start()
        pid = os.fork()
        if pid == 0:
            status = 3
            try:
                try:
                    self._check()
                    status = 0
                except BaseException:
                    os.write(writing, traceback.format_exc().encode()[:60_000])
            finally:
                os._exit(status)
        forked.set()
        os.close(writing)
        ended = self._wait(pid)
        said = os.read(reading, 1 << 16).decode(errors="replace") if ended == 3 else ""
        os.close(reading)
        lines = self._file.read()
        if ended == 0:
            return None
        events = [event.to_json() for event in self._lines.feed(lines)]
        hang = next((event for event in events if event["event"] == "hang" and event["pid"] == pid), None)
        how = said or ("" if hang else _ending(ended, self._limit))
        what = f"{hang['waits_for']['what']}" if hang else how[-200:]
        return {"events": events, "child": pid, "how": how, "what": what}

    def _wait(self, pid: int) -> int | None:
        """The exit status; None if it took too long, and was killed."""
        until = time.monotonic() + self._limit
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None


def _let_go_if_blocked(native_id: int, forked: threading.Event, let_go: Callable[[], None]) -> None:
    """Once the thread that is to fork does nothing but sleep. A busy machine makes it late, but not asleep."""
    asleep = 0
    while not forked.wait(0.2):
        try:
            with open(f"/proc/self/task/{native_id}/stat", errors="replace") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            state = "S"  # no /proc here: by time alone
        asleep = asleep + 1 if state == "S" else 0
        if asleep == _ASLEEP:
            let_go()
            return


def _ending(status: int | None, limit: float) -> str:
    if status is None:
        return f"the child did not end within {limit:g} s"
    return (
        f"the child was ended by signal {-status}" if status < 0 else f"the child ended with status {status}"
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is said


def _told(failures: list[dict[str, Any]], tally: Tally) -> str:
    kinds = len(failures)
    head = (
        f"fork_torture: a child did not get through, {kinds} way{'s' if kinds > 1 else ''} ({tally.forks} forks; {tally.moments} "
        f"moments looked at, something held at {tally.held})\n"
    )
    return "\n".join([head, *map(_failure, failures)]).rstrip()


def _failure(failure: dict[str, Any]) -> str:
    lines = EventLines()
    pairing = Pairing()
    raw = "".join(json.dumps(event) + "\n" for event in failure["events"]).encode()
    for event in lines.feed(raw):
        pairing.add(event)
    stream = io.StringIO()
    terminal = Terminal(stream, width=100)
    for event in pairing.ready(last=True):
        if _concerns(event, failure["child"]):
            terminal.show(_without_us(event))
    text = stream.getvalue()
    if "moment" in failure:
        file, line, function = failure["moment"]
        text = f"forked while the call stood at {file}:{line} in {function}\n{text}"
    return f"{text.rstrip()}\n{failure['how']}".rstrip() + "\n"


def _concerns(event: Event, child: int) -> bool:
    return (isinstance(event, Fork) and event.child == child) or (
        isinstance(event, Hang) and event.pid == child
    )


def _without_us(event: Event) -> Event:
    """Without the frames of this module, in which the thread was parked."""
    if isinstance(event, Fork):
        hazards = tuple(replace(h, stack=_outside(h.stack)) for h in event.hazards if h.counts)
        return replace(event, hazards=hazards)
    if isinstance(event, Hang):
        waits = replace(event.waits_for, stack=_outside(event.waits_for.stack))
        hazard = event.hazard and replace(event.hazard, stack=_outside(event.hazard.stack))
        return replace(event, waits_for=waits, hazard=hazard)
    return event


def _outside(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    kept: list[Frame] = []
    for frame in stack:
        if frame.file == __file__:
            if kept:
                break  # from here on it is how we came to the call
            continue
        kept.append(frame)
    return tuple(kept)
