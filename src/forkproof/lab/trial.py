"""One run of a program in a process that nothing of it can escape from, with a time limit.

Each run has a *warden*: a process that takes over whatever the program leaves behind (Linux's child subreaper), so that
a child which hangs after its parent has ended is still seen, and so that nothing is left when the run is over. The
caller has no threads when it starts one.
"""

from __future__ import annotations

import json
import mmap
import os
import selectors
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, Self, TypeVar

import psutil

from forkproof.launch.supervise import _prctl
from forkproof.model import Event, Hang
from forkproof.report import EventLines

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STEP = 0.02
_IDLE_AFTER = 1.0
_BUSY = 6

Outcome = Literal["finished", "failed", "hung", "busy"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run ended.

    outcome  finished: all of its processes ended, the first with status 0. failed: with another. hung: at the limit none
             was at work, or a child has not been for as long as the limit. busy: they were still at work after six
             times the limit.
    status   of the first process, as subprocess has it; None if it was still there
    seconds  until all had ended, or the limit
    stderr   its last lines
    listens  a port that it was listening on at the limit
    """

    outcome: Outcome
    status: int | None
    seconds: float
    stderr: str
    listens: int | None = None


class Limit:
    """The seconds that runs may take, which may be changed while they go on."""

    def __init__(self, seconds: float) -> None:
        self._shared = mmap.mmap(-1, 8)
        self.set(seconds)

    def set(self, seconds: float) -> None:
        self._shared[:8] = struct.pack("d", seconds)

    def get(self) -> float:
        seconds: float = struct.unpack("d", self._shared[:8])[0]
        return seconds


class Run:
    """A run that is going on. `fileno` is readable when there is something for `read`."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[bytes, bytes],
        stderr: Path,
        limit: Limit,
        events: Path | None = None,
        load: Load | None = None,
    ) -> None:
        """events   where the doctor, if it is installed, writes what it finds in a run that hangs
        load     stopped when the run has ended, or needs no processor any more
        """
        self.idle = False
        self.ended: Ended | None = None
        self._tail = b""
        self._load = load
        self._read, write = os.pipe()
        self._warden = os.fork()
        if not self._warden:
            os.close(self._read)
            _ward(command, env, stderr, limit, events, write)
        os.close(write)

    def fileno(self) -> int:
        return self._read

    def read(self) -> None:
        """Take in what the warden says; sets `idle`, and at last `ended`."""
        data = os.read(self._read, 1 << 16)
        self._tail += data
        *lines, self._tail = self._tail.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "idle" in said:
                self.idle = said["idle"]
                if self.idle:
                    self._relieve()
            else:
                self.ended = Ended(**said)
        if not data:
            self._close()
            if self.ended is None:
                raise RuntimeError("a run was lost: its warden was killed")

    def kill(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):
            os.kill(self._warden, signal.SIGTERM)
        self._close()

    def _relieve(self) -> None:
        if self._load is not None:
            self._load.stop()
            self._load = None

    def _close(self) -> None:
        self._relieve()
        if self._read >= 0:
            os.close(self._read)
            self._read = -1
            os.waitpid(self._warden, 0)


def die_with_parent(signum: int) -> None:
    """Have this process sent `signum` when the thread that started it ends."""
    _prctl()(_PR_SET_PDEATHSIG, signum)


_Key = TypeVar("_Key")


class Runs(Generic[_Key]):
    """Runs that go on beside each other, at most `jobs` of them at work; what still goes on at its end is ended."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._going: dict[Run, _Key] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._going:
            run.kill()
        self._selector.close()

    def __bool__(self) -> bool:
        """Whether any goes on."""
        return bool(self._going)

    def has_room(self) -> bool:
        """A run that hangs needs no processor; but with one job nothing else is to go on beside it."""
        working = len(self._going) if self._jobs == 1 else sum(not run.idle for run in self._going)
        return working < self._jobs and len(self._going) < 16 * self._jobs

    def add(self, run: Run, key: _Key) -> None:
        self._going[run] = key
        self._selector.register(run, selectors.EVENT_READ)

    def ended(self, seconds: float) -> Iterator[tuple[_Key, Ended]]:
        """Those that have ended when something has happened, or `seconds` have gone by."""
        for key, _ in self._selector.select(seconds):
            run = key.fileobj
            assert isinstance(run, Run)
            run.read()
            if run.ended:
                self._selector.unregister(run)
                mine = self._going.pop(run)
                run.kill()
                yield mine, run.ended


class Load:
    """Processes that do nothing but keep `cpus` busy, until `stop`, or until their maker ends."""

    def __init__(self, number: int, cpus: Sequence[int]) -> None:
        prctl, maker = _prctl(), os.getpid()
        self._pids = []
        for _ in range(number):
            pid = os.fork()
            if not pid:
                try:
                    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # as die_with_parent, looked up before the fork
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    os.sched_setaffinity(0, cpus)
                    while os.getppid() == maker:
                        sum(range(10_000))
                finally:
                    os._exit(0)
            self._pids.append(pid)

    def stop(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids = []


def _ward(
    command: Sequence[str],
    env: Mapping[bytes, bytes],
    stderr: Path,
    limit: Limit,
    events: Path | None,
    report: int,
) -> NoReturn:
    """The warden's life. It ends all that it watches when it is told to, or when its parent ends."""
    global _ending
    status = 1
    try:
        os.setsid()
        prctl = _prctl()
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _stop)
        try:
            try:
                ended = _watch(command, env, stderr, limit, events, report)
                _say(report, ended)
                status = 0
            finally:
                _ending = True
        finally:
            _kill_all()
    except _Stop:
        pass
    except BaseException as error:
        os.write(2, f"forkproof: a run was lost: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


class _Stop(BaseException):
    pass


_ending = False


def _stop(*_: object) -> None:
    """Once, and not while it ends all that it watches anyway."""
    global _ending
    if not _ending:
        _ending = True
        raise _Stop


def _say(report: int, value: dict[str, Any]) -> None:
    os.write(report, json.dumps(value).encode() + b"\n")


def _watch(
    command: Sequence[str],
    env: Mapping[bytes, bytes],
    stderr: Path,
    limit: Limit,
    events: Path | None,
    report: int,
) -> dict[str, Any]:
    with open(stderr, "wb") as errors:
        program = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    began = time.monotonic()
    status: int | None = None
    activity = _Activity(program.pid)
    idle = False
    while True:
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == program.pid:
                    status = program.returncode = os.waitstatus_to_exitcode(reaped[1])
        except ChildProcessError:
            outcome = "finished" if status == 0 else "failed"
            return _ended(outcome, status, time.monotonic() - began, stderr)
        activity.look()
        if activity.is_idle != idle:
            idle = activity.is_idle
            _say(report, {"idle": idle})
        seconds, most = time.monotonic() - began, limit.get()
        stands_still = idle or activity.child_idle >= most
        if seconds > most and (stands_still or seconds > _BUSY * most):
            if stands_still and events is not None:
                _examine(events)
            ended = _ended("hung" if stands_still else "busy", status, seconds, stderr)
            return {**ended, "listens": _listens()}
        time.sleep(_STEP)


class _Activity:
    """Which of the processes use the processor, or wait for it. With less than 50 ms of it a process has not moved."""

    def __init__(self, first: int) -> None:
        self.is_idle = False
        """None has moved for a second."""
        self.child_idle = 0.0
        """The longest time, in seconds, for which a process that is not the first has not moved."""
        self._first = first
        self._moved: dict[int, tuple[float, float]] = {}
        self._last = self._at = time.monotonic()  # most runs are over before the first look, which is dear

    def look(self) -> None:
        now = time.monotonic()
        if now - self._at < 0.1:
            return
        self._at = now
        used = _cpu()
        for pid, (seconds, wants) in used.items():
            if wants or pid not in self._moved or seconds - self._moved[pid][0] > 0.05:
                self._moved[pid] = seconds, now
                self._last = now
        self._moved = {pid: moved for pid, moved in self._moved.items() if pid in used}
        self.is_idle = now - self._last >= _IDLE_AFTER
        self.child_idle = max(
            (now - since for pid, (_, since) in self._moved.items() if pid != self._first), default=0.0
        )


def _ended(outcome: str, status: int | None, seconds: float, stderr: Path) -> dict[str, Any]:
    with open(stderr, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        text = file.read().decode(errors="replace")
    return {"outcome": outcome, "status": status, "seconds": round(seconds, 3), "stderr": text}


def _examine(events: Path) -> None:
    """Have the doctor add what it finds to the events, of processes that have said nothing themselves."""
    try:
        from forkproof._events import Writer
        from forkproof.doctor.errors import DoctorError
        from forkproof.doctor.examine import examine, hangs
    except ImportError:  # without the extra `doctor`
        return
    told = {event.pid for event in events_of(events) if isinstance(event, Hang)}
    writer = Writer(events)
    for process in _family():
        if process.pid not in told:
            with suppress(DoctorError, psutil.Error):
                seconds = round(time.time() - process.create_time(), 1)
                for hang in hangs(examine(process.pid), seconds):
                    writer.write(hang.to_json())
    writer.close()


def events_of(path: Path) -> list[Event]:
    """The events in a run's file; none where there is no file."""
    if not path.exists():
        return []
    lines = EventLines()
    return [*lines.feed(path.read_bytes()), *lines.close()]


def _family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _cpu() -> dict[int, tuple[float, bool]]:
    """Processor seconds of each that is there, with those of its own children that it has waited for; and whether it wants
    more at this moment: on a busy machine one that gets none for long does not stand still."""
    used = {}
    for process in _family():
        with suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            wants = process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
            seconds = times.user + times.system + times.children_user + times.children_system
            used[process.pid] = seconds, wants
    return used


def _listens() -> int | None:
    for process in _family():
        with suppress(psutil.Error):
            connections = getattr(process, "net_connections", None) or process.connections
            for connection in connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    return int(connection.laddr.port)
    return None


def _kill_all() -> None:
    while True:
        for process in _family():
            with suppress(psutil.Error):
                process.kill()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)
