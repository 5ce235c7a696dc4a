"""Threads brought to a certain place, and what Forkproof says of them there.

A thread is parked inside `os.write` to a pipe that is too small for it: once the pipe has bytes in it, the thread is in
that system call and cannot leave it before the pipe is read. No event, no lock and no sleep has a part in it, so that
nothing is seen of the thread but what the test is about.

    def test_it(stage):
        lock, gate = threading.Lock(), stage.gate()
        def body():
            with lock:
                gate.wait()
        expect(stage.at(gate, body), holds(lock, "lock in ..."))

A *shape* is the body of a function with `wait()` at the places to look at, each with what is held there in a comment:

    with a:
        wait()  # a
    wait()  # nothing

Words of the comment: `a` held, `?a` possibly held, `<a` being left, `nothing`. `play` runs it under many `Mode`s.
"""

from __future__ import annotations

import operator
import os
import re
import select
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import forkproof
from forkproof import _native
from forkproof.evidence.naming import STATES, UNSEEN

FULL = b"." * 200_000
LIMIT = 20.0


def until(happened: Callable[[], Any]) -> Any:
    """What `happened()` returns once it is true; fails after LIMIT seconds."""
    end = time.monotonic() + LIMIT
    while not (found := happened()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.0002)
    return found


class Gate:
    """One thread stops here, once."""

    def __init__(self) -> None:
        self._ours, self.fd = os.pipe()
        os.set_blocking(self._ours, False)
        self.opened = False

    def wait(self) -> None:
        os.write(self.fd, FULL)

    def reached(self, thread: threading.Thread | None = None) -> None:
        """Return once a thread is inside the write, or fail."""

        def there() -> bool:
            assert thread is None or thread.is_alive(), f"ended early: {getattr(thread, 'error', None)!r}"
            return bool(select.select([self._ours], [], [], 0)[0])

        until(there)

    def open(self) -> None:
        """Let the thread go on. One that comes later fails with BrokenPipeError."""
        if self.opened:
            return
        self.opened = True
        left = len(FULL) if select.select([self._ours], [], [], 0)[0] else 0
        while left:
            select.select([self._ours], [], [], LIMIT)
            left -= len(os.read(self._ours, left))
        os.close(self._ours)

    def close(self) -> None:
        self.open()
        os.close(self.fd)


class Actor(threading.Thread):
    error: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.error = error


class Stage:
    def __init__(self) -> None:
        self.gates: list[Gate] = []
        self.actors: list[Actor] = []

    def gate(self) -> Gate:
        gate = Gate()
        self.gates.append(gate)
        return gate

    def start(self, body: Callable[..., object], *args: Any, **kwargs: Any) -> Actor:
        actor = Actor(target=body, args=args, kwargs=kwargs, daemon=True)
        self.actors.append(actor)
        actor.start()
        return actor

    def at(self, gate: Gate, body: Callable[..., object], *args: Any, **kwargs: Any) -> Actor:
        """The thread that runs `body`, once it stands at `gate`."""
        actor = self.start(body, *args, **kwargs)
        gate.reached(actor)
        return actor

    def seen(self, body: Callable[..., object], *args: Any, **kwargs: Any) -> Actor:
        """The thread that runs `body`, once anything at all is seen of it."""
        actor = self.start(body, *args, **kwargs)
        until(lambda: sightings(actor))
        return actor

    @contextmanager
    def held(self, lock: Any) -> Iterator[None]:
        """The lock is taken by a third thread, no frame of which shows it."""
        gate = self.gate()

        def hold() -> None:
            operator.methodcaller("acquire")(lock)
            gate.wait()
            operator.methodcaller("release")(lock)

        holder = self.at(gate, hold)
        try:
            yield
        finally:
            gate.open()
            holder.join(LIMIT)

    def finish(self) -> None:
        for gate in self.gates:
            gate.open()
        for actor in self.actors:
            actor.join(LIMIT)
            assert not actor.is_alive(), f"{actor} does not end"
        for gate in self.gates:
            gate.close()
        self.gates.clear()
        for actor in self.actors:
            if actor.error is not None:
                raise actor.error
        self.actors.clear()


@contextmanager
def staged() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.finish()


# ----------------------------------------------------------------------------------------------------------------------
# What is said


@dataclass(frozen=True)
class Wanted:
    state: str
    subject: object
    what: str | None = None
    certain: bool = True
    at_risk: bool = True


def holds(subject: object, what: str | None = None, *, certain: bool = True, at_risk: bool = True) -> Wanted:
    return Wanted("holds", subject, what, certain, at_risk)


def leaving(subject: object, what: str | None = None, *, certain: bool = True) -> Wanted:
    return Wanted("leaving", subject, what, certain)


def acquiring(subject: object, what: str | None = None) -> Wanted:
    """As a mutex: it counts as much as one that is held."""
    return Wanted("acquiring", subject, what)


def signal(subject: object) -> Wanted:
    """Acquired as a signal: seen, and no hazard."""
    return Wanted("acquiring", subject, None, True, False)


def inside(subject: object, what: str | None = None) -> Wanted:
    return Wanted("inside", subject, what, False)


def sightings(thread: threading.Thread) -> list[Any]:
    return [s for s in _native.look() if s[0] == thread.ident]


def hazards(thread: threading.Thread) -> list[forkproof.guard.Hazard]:  # type: ignore[name-defined]
    found = forkproof.assess()
    assert found.exact
    return [h for h in found.hazards if h.counts and h.thread is not None and h.thread.ident == thread.ident]


def expect(thread: threading.Thread, *wanted: Wanted) -> None:
    """That exactly this is seen of the thread, and exactly what is at risk of it told as hazards."""
    seen = sightings(thread)
    told = hazards(thread)
    assert thread.is_alive(), f"ended: {getattr(thread, 'error', None)!r}"
    report = "\n".join(
        f"{STATES[s[2]]} {s[7]!r} certain={s[4]} mutex={s[5]} in {s[10].co_qualname}+{s[11]} by {s[8]}"
        for s in seen
    )
    stack = " < ".join(code.co_qualname for code, _ in seen[0][14]) if seen else ""
    key = sorted((STATES[s[2]], id(s[7]), bool(s[4])) for s in seen)
    assert key == sorted((w.state, id(w.subject), w.certain) for w in wanted), f"seen:\n{report}\n{stack}"
    # Of a lock that is held the holder is told; of one in `held` no frame shows that, but an RLock names its owner.
    waits = any(w.state == "acquiring" and w.at_risk for w in wanted)
    held = [s[7] for s in _native.assess() if s[9] == UNSEEN] if waits else []
    risky = [
        w for w in wanted if w.at_risk and not (w.state == "acquiring" and any(w.subject is h for h in held))
    ]
    assert sorted((h.state or "", h.certainty) for h in told) == sorted(
        (w.state, "certain" if w.certain and w.state != "acquiring" else "possible") for w in risky
    ), f"told: {told}"
    for w in risky:
        if w.what is not None:
            assert w.what in [h.what for h in told]
    for h in told:
        assert "0x" not in h.what
        assert h.stack
    if any(w.at_risk for w in wanted) or held:
        assert forkproof.assess().risk != "none"


# ----------------------------------------------------------------------------------------------------------------------
# Shapes


@dataclass(frozen=True)
class Mode:
    """How a shape is run: `park` in "python" (in a function further in) or "c" (in a C call of the frame itself)."""

    park: str = "python"
    reach: str = "local"  # how the locks are reached: local, cell, attribute, captured (attribute of a self in a cell), global
    watch: str = ""  # "", trace, profile, monitor
    warm: bool = False  # run it often before, so that its instructions are specialised
    wide: bool = False  # more than 256 names and constants before it, so that arguments are EXTENDED

    @property
    def id(self) -> str:
        words = [self.park, self.reach, self.watch, "warm" * self.warm, "wide" * self.wide]
        return "-".join(word for word in words if word)


MODES = [
    Mode("python", "local"),
    Mode("c", "local"),
    Mode("python", "cell"),
    Mode("c", "cell"),
    Mode("python", "attribute"),
    Mode("c", "attribute"),
    Mode("c", "captured"),
    Mode("python", "captured"),
    Mode("c", "global"),
    Mode("python", "local", warm=True),
    Mode("c", "attribute", warm=True),
    Mode("python", "attribute", "trace"),
    Mode("c", "local", "trace"),
    Mode("c", "attribute", "profile"),
    Mode("python", "local", "monitor"),
    Mode("c", "attribute", "monitor", warm=True),
    Mode("python", "attribute", wide=True),
    Mode("c", "local", wide=True),
]
modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.id)

HEADER = "a, b, c, r"


class Owner:
    """Locks as attributes: `self.a`."""

    def __init__(self, locks: dict[str, Any]) -> None:
        self.__dict__.update(locks)


def _compiled(
    source: str, mode: Mode, names: dict[str, Any], locks: dict[str, Any], file: str
) -> Callable[..., object]:
    stops = iter(range(10**6))
    call = "stop({})" if mode.park == "python" else "write(fds[{}], FULL)"
    body = re.sub(r"\bwait\(\)", lambda _: call.format(next(stops)), textwrap.dedent(source).strip())
    if mode.wide:
        many = "".join(f"if never: never.name_{i}('constant {i}', never_{i})\n" for i in range(300))
        body = f"never = None\n{many}{body}"
    kind = "async def" if re.search(r"\b(await|async)\b", body) and "async def" not in body else "def"
    words = "|".join(locks)
    if mode.reach in ("attribute", "captured"):
        body = re.sub(rf"(?<![\w.])({words})(?=\b(?!\s*=[^=]))(?![\w'\"])", r"self.\1", body)
        keep = "    def keep(): return self\n" if mode.reach == "captured" else ""
        text = f"{kind} shape(self, stop, write, fds, FULL):\n{keep}{textwrap.indent(body, '    ')}"
    elif mode.reach == "cell":
        inner = f"{kind} shape(stop, write, fds, FULL):\n{textwrap.indent(body, '    ')}"
        keep = f"    def keep(): return {', '.join(locks)}\n"
        text = f"def make({', '.join(locks)}):\n{textwrap.indent(inner, '    ')}\n{keep}    return shape"
    elif mode.reach == "global":
        text = f"{kind} shape(stop, write, fds, FULL):\n{textwrap.indent(body, '    ')}"
    else:
        text = f"{kind} shape(stop, write, fds, FULL, {', '.join(locks)}):\n{textwrap.indent(body, '    ')}"
    space: dict[str, Any] = {**names}
    if mode.reach == "global":
        space |= locks
    exec(compile(text, file, "exec"), space)
    if mode.reach == "cell":
        shape = space["make"](**locks)
    else:
        shape = space["shape"]
    if mode.reach in ("attribute", "captured"):
        owner = Owner(locks)
        return lambda *args: shape(owner, *args)
    if mode.reach == "local":
        return lambda *args: shape(*args, **locks)
    return shape  # type: ignore[no-any-return]


def _watched(how: str) -> Any:
    """A context in which every instruction of this thread, or of all, is watched."""

    def tracer(frame: Any, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        return tracer

    @contextmanager
    def watching() -> Iterator[None]:
        if how == "trace":
            sys.settrace(tracer)
        elif how == "profile":
            sys.setprofile(lambda frame, event, arg: None)
        elif how == "monitor":
            monitoring = sys.monitoring  # type: ignore[attr-defined]
            events = monitoring.events
            monitoring.use_tool_id(4, "test")
            for event in (events.LINE, events.INSTRUCTION, events.CALL, events.C_RETURN, events.PY_RETURN):
                monitoring.register_callback(4, event, lambda *args: None)
            monitoring.set_events(4, events.LINE | events.INSTRUCTION | events.CALL | events.PY_RETURN)
        try:
            yield
        finally:
            if how == "trace":
                sys.settrace(None)
            elif how == "profile":
                sys.setprofile(None)
            elif how == "monitor":
                monitoring.set_events(4, 0)
                monitoring.free_tool_id(4)

    return watching()


def play(source: str, mode: Mode, **names: Any) -> None:
    """Run the shape, stop at each `wait()` in the order of its running, and expect there what its comment says.

    `names` are the globals of the shape. A line with `# skip` is a stop that this run does not come to.
    """
    if mode.watch == "monitor" and sys.version_info < (3, 12):
        pytest.skip("no sys.monitoring before 3.12")
    locks: dict[str, Any] = {
        "a": threading.Lock(),
        "b": threading.Lock(),
        "c": threading.Lock(),
        "r": threading.RLock(),
    }
    comments = [
        line.partition("wait()")[2].partition("#")[2].split()
        for line in source.splitlines()
        if "wait()" in line
    ]
    file = sys._getframe(1).f_code.co_filename
    shape = _compiled(source, mode, names, locks, file)

    def run(*args: Any) -> None:
        answer: Any = shape(*args)
        if hasattr(answer, "send"):
            try:
                answer.send(None)
            except StopIteration:
                return
            raise AssertionError("the shape is not to await what is not ready")

    with staged() as stage:
        if mode.warm:
            for _ in range(80):
                run(lambda k: None, lambda fd, data: None, range(100), FULL)
        gates = [stage.gate() for _ in comments]

        def stop(k: int) -> None:
            gates[k].wait()

        def body() -> None:
            with _watched(mode.watch):
                run(stop, os.write, [gate.fd for gate in gates], FULL)

        # The watching `with` is not of interest, and takes no lock.
        actor = stage.start(body)
        for gate, words in zip(gates, comments, strict=True):
            if "skip" in words:
                continue
            assert words, "a stop without a comment"
            gate.reached(actor)
            wanted = []
            for word in words:
                if word == "nothing":
                    continue
                name = word.strip("?<")
                state = "leaving" if word[0] == "<" else "holds"
                wanted.append(Wanted(state, locks[name], _name(name, mode), certain=word[0] != "?"))
            try:
                expect(actor, *wanted)
            except AssertionError as error:
                raise AssertionError(f"at stop {gates.index(gate)} ({' '.join(words)}): {error}") from error
            gate.open()
        actor.join(LIMIT)
        assert not actor.is_alive()
    assert not any(lock.acquire(blocking=False) is False for lock in locks.values()), (
        "the shape left a lock held"
    )


def _name(name: str, mode: Mode) -> str | None:
    return None


forkproof.assess()  # the catalogue is read once, before any test looks


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as found:
        yield found
