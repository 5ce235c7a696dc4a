"""Real interpreters as children, and nothing left behind.

Every test is marked by a variable of its own in the environment, which all processes inherit that it starts,
directly or not, whatever group or session they move to. A test that leaves one running fails, and the
process is killed.

    def test_it(run, tmp_path):
        ended = run("-c", "print(1)")                    # the interpreter under test, within a time limit
        assert (ended.status, ended.stdout) == (0, "1\\n")
        assert run("hangs.py", hangs=True, limit=3).timed_out
        with start("-c", code) as program: ...           # for a conversation (fixture `start`)
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import hypothesis
import pytest

MARK = "FORKPROOF_TEST"

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("forkproof", deadline=None)
hypothesis.settings.load_profile("forkproof")

# The first three hide the standard streams' locks, and so hangs that users have; under the others pytest tells
# each failure twice (_pytest.terminal, running_on_ci), and what a nested run prints is counted.
for unwanted in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "CI", "BUILD_NUMBER"):
    os.environ.pop(unwanted, None)


@dataclass(frozen=True)
class Ended:
    """How a child ended. `status` is negative if a signal ended it, which is SIGKILL after a time-out."""

    status: int
    stdout: str
    stderr: str
    timed_out: bool
    seconds: float


class Run(Protocol):
    """See `run`."""

    def __call__(
        self,
        *args: str | Path,
        limit: float = 30,
        hangs: bool = False,
        stdin: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        command: str | None = None,
    ) -> Ended: ...


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks what this test starts; fails the test if something of it is still running at the end."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    left = {pid: _command_of(pid) for pid in _marked(value, patience=15)}
    if left:
        _kill_marked(value)
        pytest.fail(f"left running: {left}")


@pytest.fixture
def run(mark: str) -> Run:
    """Run the interpreter under test to its end: `run(*args, limit=, hangs=, stdin=, cwd=, env=)`.

    Fails if that takes more than `limit` seconds, unless `hangs` says that it may; then it is killed, with
    all that it started. `env` is laid over the environment (None removes a variable). `command` replaces the
    interpreter.
    """

    def run(
        *args: str | Path,
        limit: float = 30,
        hangs: bool = False,
        stdin: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        command: str | None = None,
    ) -> Ended:
        # Files, not pipes: a child that hangs would hold a pipe open, and us with it.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(stdin.encode())
            given.seek(0)
            began = time.monotonic()
            process = subprocess.Popen(
                [command or sys.executable, *args],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=_environment(env),
                start_new_session=True,
            )
            try:
                process.wait(limit)
                timed_out = False
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                if hangs or process.poll() is None:
                    _kill_group(process)
                    _kill_marked(mark)
            ended = Ended(process.wait(), _text(out), _text(err), timed_out, time.monotonic() - began)
        if timed_out and not hangs:
            pytest.fail(f"{args} still ran after {limit} s\n{ended.stdout}{ended.stderr}")
        return ended

    return run


class Start(Protocol):
    """See `start`."""

    def __call__(
        self,
        *args: str | Path,
        limit: float = 30,
        stdin: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> AbstractContextManager[Program]: ...


class Program:
    """A running child to talk with, line by line. Whatever is awaited fails at the time limit."""

    def __init__(self, process: subprocess.Popen[str], limit: float) -> None:
        self.process = process
        self.pid = process.pid
        self._until = time.monotonic() + limit

    def line(self) -> str:
        """The next line of its output, "" at the end."""
        assert self.process.stdout
        with self._limited():
            return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(max(self._until - time.monotonic(), 0.1))

    def until(self, happened: Callable[[], bool]) -> None:
        """Return once `happened()`; for what sends no word of itself."""
        while not happened():
            assert time.monotonic() < self._until, "did not happen in time"
            time.sleep(0.01)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """A read cannot be given a limit, so at the limit its other end is killed."""
        previous = signal.signal(signal.SIGALRM, lambda *_: _kill_group(self.process))
        signal.setitimer(signal.ITIMER_REAL, max(self._until - time.monotonic(), 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def start(mark: str) -> Start:
    """Start the interpreter under test to talk with it; killed at the end of the `with`, if it has not
    ended."""

    @contextmanager
    def start(
        *args: str | Path, limit: float = 30, stdin: int = subprocess.PIPE, pass_fds: Sequence[int] = ()
    ) -> Iterator[Program]:
        process = subprocess.Popen(
            [sys.executable, *args],
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        with process:
            try:
                yield Program(process, limit)
            finally:
                _kill_group(process)
                _kill_marked(mark)

    return start


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal, 100 columns wide: the end of the person who watches, and the program's."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminals here: {error}")
    termios.tcsetwinsize(theirs, (24, 100))
    yield ours, theirs
    os.close(ours)


def _environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    merged = {**os.environ, **(changes or {})}
    if (first := os.environ.get("LD_PRELOAD")) and changes and changes.get("LD_PRELOAD"):
        merged["LD_PRELOAD"] = f"{first}:{changes['LD_PRELOAD']}"  # a sanitizer's runtime (tools/sanitize.py)
    return {name: value for name, value in merged.items() if value is not None}


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="surrogateescape")


def _kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill_marked(value: str) -> None:
    """Kill until none is left: one may start another meanwhile."""
    deadline = time.monotonic() + 10
    while pids := _marked(value):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, f"cannot be killed: {pids}"
        time.sleep(0.01)


def _marked(value: str, patience: float = 0) -> list[int]:
    """The processes that carry the mark, after waiting at most `patience` seconds for there to be none."""
    needle = f"{MARK}={value}".encode()
    deadline = time.monotonic() + patience
    while True:
        found = [pid for pid in _pids() if needle in _environ_of(pid).split(b"\0")]
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.01)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _environ_of(pid: int) -> bytes:
    """What the process was started with; empty for one that has ended, or is not ours."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"
