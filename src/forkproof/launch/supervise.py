"""A process that stands where the program would stand, and behaves to everybody outside as the program does.

It shares the program's process group, so a signal sent to the group (Ctrl-C, `timeout`, a supervisor)
reaches the program by itself, and one sent to this process alone (`kill PID`, `docker stop`) must be passed
on. Passing on both would interrupt the program twice, passing on none would lose the second sort, and
nothing in a signal tells them apart. So a *witness* tells: a second process of the group that only collects
signals. What the witness got as well was sent to the group.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

_NOT_PASSED_ON = {"KILL", "STOP", "CHLD", "CONT", "PIPE", "SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS", "ABRT"}
_PASSED_ON = signal.valid_signals() - {getattr(signal, f"SIG{name}", None) for name in _NOT_PASSED_ON}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def supervise(
    command: Sequence[str], env: dict[bytes, bytes], tick: Callable[[], None], every: float = 0.05
) -> int:
    """Run `command` in the foreground, with this process's streams and descriptors, calling `tick` in
    between.

    Returns its exit status, or minus the signal that ended it. Signals stay blocked afterwards: the program
    is gone, and what remains to be done here is short.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    witness = _Witness()
    prctl = _prctl()

    def as_before() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # who kills -9 this process means the program
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # Only this thread exists, so a preexec_fn is safe; descriptors that we were given are the program's.
    process = subprocess.Popen(command, env=env, close_fds=False, preexec_fn=as_before)
    _let_go_of_streams()
    while process.poll() is None:
        signum = _next_signal(every)
        if signum in _PASSED_ON and not witness.saw(signum):
            process.send_signal(signum)
        _stop_with(process.pid, witness)
        tick()
    witness.dismiss()
    return process.returncode


def end_as(returncode: int) -> NoReturn:
    """End this process as the program ended: with its status, or by its signal (without a second core)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if returncode < 0:
        _prctl()(_PR_SET_DUMPABLE, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        _take(-returncode)
    os._exit(returncode if returncode >= 0 else 128 - returncode)


class _Witness:
    """A process of our group that is asked, signal by signal, whether it got that one too."""

    def __init__(self) -> None:
        question, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._ask)  # so that the launcher's end, whatever brings it, is the end of the file
                _let_go_of_streams()
                self._testify(question, answer)
            finally:
                os._exit(0)
        os.close(question)
        os.close(answer)

    @staticmethod
    def _testify(question: int, answer: int) -> None:
        while asked := os.read(question, 1):
            seen = asked[0] in signal.sigpending()
            if seen:
                signal.sigwait(asked)  # bytes are numbers: waits for the one signal, which is there
            os.write(answer, bytes([seen]))

    def saw(self, signum: int) -> bool:
        """Whether the whole group was sent `signum`. It was blocked there too, so it was not lost."""
        try:
            os.write(self._ask, bytes([signum]))
            return os.read(self._answer, 1) == b"\1"
        except OSError:  # somebody killed the witness: then the program may get a signal twice
            return False

    def dismiss(self) -> None:
        os.close(self._ask)
        os.waitpid(self._pid, 0)


def _next_signal(seconds: float) -> int | None:
    """The next of our signals, or None after `seconds`. An ended child is one."""
    wanted = _PASSED_ON | {signal.SIGCHLD}
    if sys.platform == "darwin":  # has no sigtimedwait
        time.sleep(seconds)
        pending = signal.sigpending() & wanted
        return signal.sigwait(pending) if pending else None
    info = signal.sigtimedwait(wanted, seconds)
    return info.si_signo if info else None


def _stop_with(pid: int, witness: _Witness) -> None:
    """If the program was stopped (Ctrl-Z, `kill -STOP`), stop too; then, once continued, continue it."""
    try:
        stopped = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
        if stopped:
            _take(stopped.si_status)
            if not os.waitid(os.P_PID, pid, os.WCONTINUED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                os.kill(pid, signal.SIGCONT)  # still as it was: only we were continued, not the group
            witness.saw(stopped.si_status)  # dealt with, if it was sent to the group
    except ChildProcessError:
        pass  # it has ended, and waits for `poll`


def _take(signum: int) -> None:
    """What the system does by default on `signum`, done to this process."""
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)  # before it is let through: if one is there already, it is the same one
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_go_of_streams() -> None:
    """Close what the program inherited too, except stderr for the report.

    A pipe has ended when everybody has closed it: whoever reads the program's output must not wait for us.
    """
    for name in os.listdir("/dev/fd"):
        try:
            inherited = int(name) > 2 and os.get_inheritable(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
        if inherited:
            os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _prctl() -> Callable[[int, int], object]:
    """Linux's prctl(option, value), looked up before a fork; elsewhere one that does nothing."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl or (lambda option, value: None)
