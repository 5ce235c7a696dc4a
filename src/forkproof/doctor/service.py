"""The command `forkproof watch`: beside a service, for as long as that runs.

The doctor's lookout with a supervisor's manners: it goes on after a hang, writes it where the service's events are, and ends
the process that hangs if it has been asked to. A process is ended by a descriptor that was taken before it was examined, so that
an id which has come back as another process's can do no harm; and only if it was forked: the service's own first process is its
supervisor's to end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace

from forkproof._events import Writer
from forkproof.doctor.command import DEADLOCK, FAILED, FINE, show
from forkproof.doctor.examine import hangs
from forkproof.doctor.lookout import Alarm, Lookout
from forkproof.doctor.process import DoctorError, Gone, Process, family
from forkproof.report import Renderer

_EVERY = 1.0
_GRACE = 5.0
"""Seconds between SIGABRT and SIGKILL: long enough to write a core file or the stacks of faulthandler."""


class _Stop(Exception):
    """SIGTERM or SIGINT: a supervisor's way to end a service in good order."""


def watch(
    pid: int,
    *,
    hang_after: float,
    once: bool,
    end: bool,
    events: str | None,
    as_json: bool,
    exports: Renderer,
) -> int:
    """Watch `pid` and its descendants; the exit status. `once`: for `hang_after` seconds and a look more. Each hang is shown to
    `exports` too."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return _Service(pid, hang_after, end, events, as_json, exports).run(once)
    except DoctorError as error:
        print(f"forkproof: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"forkproof: {error.filename or events}: {error.strerror}", file=sys.stderr)
        return FAILED
    except _Stop:
        return FINE
    finally:
        exports.finish()


def _stop(number: int, frame: object) -> None:
    raise _Stop


class _Service:
    def __init__(
        self, pid: int, hang_after: float, end: bool, events: str | None, as_json: bool, exports: Renderer
    ) -> None:
        self._pid = pid
        self._hang_after = hang_after
        self._end = end
        self._as_json = as_json
        self._exports = exports
        self._writer = None if events is None else Writer(events)
        self._handles: dict[int, int] = {}
        self._dying: dict[int, float] = {}
        """Descriptors of processes that have had SIGABRT, and when they get SIGKILL."""
        self._told: set[str] = set()

    def run(self, once: bool) -> int:
        with Process(self._pid) as process:
            started = process.started
        lookout = Lookout(self._processes, self._hang_after)
        until: float | None = None
        status = FINE
        if not once:
            print(f"forkproof: watching process {self._pid} and its descendants", file=sys.stderr, flush=True)
        try:
            while True:
                last = once and until is not None and time.monotonic() >= until
                for alarm in lookout.look():
                    status = DEADLOCK
                    self._alarm(alarm)
                if lookout.refused is not None and not isinstance(lookout.refused, Gone):
                    self._say_once(str(lookout.refused))
                    if not lookout.watched:
                        return FAILED
                if last:
                    return status
                if until is None:
                    until = (
                        time.monotonic() + self._hang_after
                    )  # from the first look on it is seen who stands still
                if not once and not self._runs(started):
                    return FINE
                self._finish()
                time.sleep(min(_EVERY, self._hang_after / 2))
        finally:
            for descriptor in (*self._handles.values(), *self._dying):
                os.close(descriptor)

    def _processes(self) -> list[int]:
        """Those to look at now, without this one where it runs beside them; with a descriptor of each if they may be ended."""
        found = [pid for pid in family(self._pid) if pid != os.getpid()]
        if self._end:
            for gone in self._handles.keys() - set(found):
                os.close(self._handles.pop(gone))
            for pid in found:
                if pid not in self._handles:
                    with suppress(OSError):
                        self._handles[pid] = os.pidfd_open(pid)
        return found

    def _runs(self, started: int) -> bool:
        try:
            with Process(self._pid) as process:
                process.tasks()
                return process.started == started
        except Gone:
            return False

    def _alarm(self, alarm: Alarm) -> None:
        found = alarm.diagnosis
        show([found], self._as_json)
        for hang in hangs(found, alarm.seconds):
            if self._writer is not None:
                self._writer.write(hang.to_json())
            self._exports.show(replace(hang, host=os.uname().nodename))
        handle = self._handles.get(found.pid)
        if handle is None or not found.origin.forked or found.pid == self._pid:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGABRT)
            self._dying[self._handles.pop(found.pid)] = time.monotonic() + _GRACE
            print(f"forkproof: process {found.pid} hangs and has been ended", file=sys.stderr, flush=True)

    def _finish(self) -> None:
        for descriptor in [one for one, due in self._dying.items() if due <= time.monotonic()]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            del self._dying[descriptor]
            os.close(descriptor)

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            print(f"forkproof: {text}", file=sys.stderr, flush=True)
