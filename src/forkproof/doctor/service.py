"""The command `forkproof watch`: beside a service, for as long as that runs.

The doctor's lookout with a supervisor's manners: it goes on after a hang, writes it where the service's events are, and ends
the process that hangs if it has been asked to. A process is ended by a descriptor that was taken before it was examined, so that
an id which has come back as another process's can do no harm; and only if it was forked: the service's own first process is its
supervisor's to end.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from forkproof._events import Writer
from forkproof.doctor.command import DEADLOCK, FAILED, FINE, show
from forkproof.doctor.errors import DoctorError, Gone
from forkproof.doctor.examine import hangs
from forkproof.doctor.lookout import Alarm, Lookout
from forkproof.doctor.process import Process, family, program_of
from forkproof.doctor.stacks import check
from forkproof.report import Renderer

_EVERY = 1.0
_MOMENT = 0.1
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
        _say(str(error))
        return FAILED
    except OSError as error:
        _say(f"{error.filename or events}: {error.strerror}")
        return FAILED
    except _Stop:
        return FINE
    finally:
        exports.finish()


def _stop(number: int, frame: object) -> None:
    raise _Stop


@dataclass(slots=True)
class _Dying:
    """A process that has been sent a signal, until it has ended."""

    pid: int
    descriptor: int
    sent: signal.Signals
    due: float
    """When it should have ended."""

    @property
    def has_ended(self) -> bool:
        """pidfd_open(2): the descriptor can be read from then on."""
        return bool(select.select([self.descriptor], [], [], 0)[0])


class _Service:
    def __init__(
        self, pid: int, hang_after: float, end: bool, events: str | None, as_json: bool, exports: Renderer
    ) -> None:
        self._pid = pid
        self._hang_after = hang_after
        self._end = end
        self._as_json = as_json
        self._exports = exports
        self._program = program_of(pid)
        self._writer = None if events is None else Writer(events)
        self._handles: dict[int, int] = {}
        self._dying: list[_Dying] = []

    def run(self, once: bool) -> int:
        with Process(self._pid) as process:
            started = process.started
        check(self._pid)
        lookout = Lookout(self._processes, self._hang_after)
        until: float | None = None
        status = FINE
        if not once:
            _say(f"watching process {self._pid} and its descendants")
        try:
            while True:
                last = once and until is not None and time.monotonic() >= until
                for alarm in lookout.look():
                    status = DEADLOCK
                    self._alarm(alarm)
                for why in lookout.told_once():
                    _say(why)
                if not lookout.watched and not isinstance(lookout.refused, Gone):
                    return FAILED
                if last:
                    self._settle()
                    return status
                if until is None:
                    until = (
                        time.monotonic() + self._hang_after
                    )  # from the first look on it is seen who stands still
                if not once and not self._runs(started):
                    self._settle()
                    return FINE
                self._finish()
                time.sleep(min(_EVERY, self._hang_after / 2))
        finally:
            for one in self._dying:
                _say(f"process {one.pid} had not ended yet, after {one.sent.name}, when the watch did")
            for descriptor in (*self._handles.values(), *(one.descriptor for one in self._dying)):
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
        program = program_of(found.pid) or self._program
        for hang in hangs(found, alarm.seconds):
            hang = replace(hang, host=os.uname().nodename, program=program)
            if self._writer is not None:
                self._writer.write(hang.to_json())
            self._exports.show(hang)
        handle = self._handles.get(found.pid)
        if handle is None or not found.origin.forked or found.pid == self._pid:
            return
        dying = _Dying(found.pid, self._handles.pop(found.pid), signal.SIGABRT, 0)
        self._dying.append(dying)
        self._signal(dying, signal.SIGABRT, "hangs")

    def _signal(self, dying: _Dying, number: signal.Signals, why: str) -> None:
        try:
            signal.pidfd_send_signal(dying.descriptor, number)
        except PermissionError:
            _say(
                f"process {dying.pid} {why}, and this watch may not send it {number.name}: run it as root or as its user"
            )
            self._forget(dying)
            return
        except ProcessLookupError:  # it has ended: that is said in its turn
            return
        dying.sent, dying.due = number, time.monotonic() + _GRACE
        _say(f"process {dying.pid} {why}: sent {number.name}")

    def _finish(self) -> None:
        """See to those that have been sent a signal."""
        for one in list(self._dying):
            if one.has_ended:
                _say(f"process {one.pid} has ended, {f'after {one.sent.name}' if one.due else 'by itself'}")
                self._forget(one)
            elif one.due <= time.monotonic():
                late = f"has not ended {_GRACE:.0f} s after {one.sent.name}"
                if one.sent is signal.SIGABRT:
                    self._signal(one, signal.SIGKILL, late)
                else:
                    _say(
                        f"process {one.pid} {late}: the kernel has it in a call that no signal ends, or it is being traced"
                    )
                    self._forget(one)

    def _settle(self) -> None:
        """Wait until it is known of each whether it has ended."""
        self._finish()
        while self._dying:
            time.sleep(_MOMENT)
            self._finish()

    def _forget(self, one: _Dying) -> None:
        self._dying.remove(one)
        os.close(one.descriptor)


def _say(text: str) -> None:
    print(f"forkproof: {text}", file=sys.stderr, flush=True)
