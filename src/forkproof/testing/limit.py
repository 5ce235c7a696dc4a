"""A child that nothing is known of ends after its time: by a process beside the tests, so that it needs nothing of either.

The watch inside each child sees what a thread waits for. It does not see a child that waits for the system (an answer, a pipe), or that
holds the interpreter's lock, and a test that joins such a child would wait with it. With `forkproof_child_limit` set,
this file runs as a process of its own, which is no child of the tests' (`os.wait()` there must not find it). Now and then it
looks through /proc for processes that were forked, not exec'd, from the tests' process, and kills one that is too old;
the doctor, where its extra is installed, says what it was doing.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from forkproof.doctor import yama


class Limit:
    """Begins with the object, ends with `close()` or with this process."""

    def __init__(self, events: str, seconds: float) -> None:
        told, self._pipe = os.pipe()
        command = [sys.executable, "-m", __name__, str(os.getpid()), events, str(seconds), str(told)]
        try:
            # It forks, says its id and its parent ends, so this does not take long.
            begun = subprocess.run(command, pass_fds=[told], stdout=subprocess.PIPE, check=True)
        finally:
            os.close(told)
        _let_in(int(begun.stdout))

    def close(self) -> None:
        with suppress(OSError):
            os.write(self._pipe, b"end")
        os.close(self._pipe)


def _let_in(pid: int) -> None:
    """Have the children let that process look at them where Yama would not: it is nobody's ancestor."""
    if not yama.keeps_helpers_out():
        return
    with suppress(ImportError, OSError):
        from forkproof import _native
        from forkproof.doctor.process import started

        _native.name_reader(pid, started(pid))


def main(pid: int, events: str, limit: float, told: int) -> None:
    if watching := os.fork():
        os.write(1, str(watching).encode())
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    began = _started(pid)
    mine = _line(pid)
    while began is not None and _started(pid) == began:
        if select.select([told], [], [], min(limit / 4, 1.0))[0]:
            return
        for child in _descendants(pid):
            age = _age(child)
            if age is not None and age > limit and _line(child) == mine:
                _end(child, events, age, mine)


def _end(pid: int, events: str, age: float, mine: bytes) -> None:
    from forkproof._events import Writer

    event = _explained(pid, age)
    for descendant in [pid, *_descendants(pid)]:
        if _line(descendant) == mine:
            with suppress(OSError):
                if descendant == pid:
                    Writer(events).write(event)  # before its parent can go on
                os.kill(descendant, 9)


def _explained(pid: int, age: float) -> dict[str, object]:
    from forkproof._events import now
    from forkproof.model import Frame, Hang, Thread, WaitsFor

    what, notes = "something for longer than forkproof_child_limit", ""
    stack: tuple[Frame, ...] = ()
    try:
        from forkproof.doctor.errors import DoctorError
        from forkproof.doctor.examine import examine, hangs
    except ImportError:
        notes = "install forkproof[doctor] to be told where it stands"
    else:
        try:
            found = examine(pid)
            for hang in hangs(found, age):
                return hang.to_json()
            main_thread = next(view for view in found.threads if view.thread.native_id == pid)
            what, stack = main_thread.does.removeprefix("waits for ") + ", for too long", main_thread.stack
        except (DoctorError, StopIteration, OSError) as error:
            notes = str(error)
    return Hang(
        time=now(),
        pid=pid,
        parent=_parent(pid),
        fork=None,
        seconds=round(age, 1),
        thread=Thread("MainThread", None, pid),
        waits_for=WaitsFor(kind="unknown", what=what, stack=stack),
        advice="forkproof_child_limit is how long a forked child may live; raise it if this one is to live longer",
        note=notes or None,
    ).to_json()


# What /proc says; None for a process that is gone.


def _stat(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _started(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None or stat[0] == "Z" else int(stat[19])


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else int(stat[1])


def _age(pid: int) -> float | None:
    started = _started(pid)
    if started is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _line(pid: int) -> bytes:
    """The command line: a process that has not exec'd has its parent's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _descendants(pid: int) -> Iterator[int]:
    parents = {int(name): _parent(int(name)) for name in os.listdir("/proc") if name.isdecimal()}
    wanted = {pid}
    while found := {child for child, parent in parents.items() if parent in wanted and child not in wanted}:
        yield from found
        wanted |= found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
