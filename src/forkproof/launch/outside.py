"""The program watched from outside: for the child that hangs with the GIL held, and so cannot watch itself.

A thread of the launcher looks at the program's processes once a second through /proc, which none of them notices, and has
the doctor examine one whose main thread stands still. What that calls proven or likely is written to the events file, as the
child's own watch would have; that has a head start, and what it has reported is not reported again. Without the extra
`forkproof[doctor]` nothing is watched from outside.

The launcher may look at its descendants under Yama's `ptrace_scope` 1 as well, and the reader of stacks, which it starts, may not.
There a deputy starts the readers, which is there before the program and is named by it (`_c/named.c`). No other process is let in
by that, and under any other setting nothing of it is done.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from forkproof.doctor import yama

if TYPE_CHECKING:
    from forkproof.doctor.deputy import Deputy

_EVERY = 1.0
_HEAD_START = 2.0


class Outside:
    """Watches the launched program; `start` is to be called once it runs, `stop` when it has ended."""

    def __init__(
        self, events: str, program: str, hang_after: float, kill: bool, is_known: Callable[[int], bool]
    ) -> None:
        """`is_known(pid)` says whether a hang of that process has been reported already."""
        self._events = events
        self._program = program
        self._hang_after = hang_after
        self._kill = kill
        self._is_known = is_known
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._possible = importlib.util.find_spec("pystack") is not None
        self._deputy: Deputy | None = None
        self.reader: tuple[int, int] | None = None
        """The process that the program is to name to Yama, and when it was started, in clock ticks; None where none need be."""
        if self._possible and yama.keeps_helpers_out():
            self._begin_deputy()

    def start(self) -> None:
        """Begin to watch, if that can be done here. Signals are blocked in the caller, and so in the thread."""
        if self._thread is None and self._possible:
            self._thread = threading.Thread(target=self._watch, name="forkproof-outside", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._deputy:
            self._deputy.close()

    def _begin_deputy(self) -> None:
        from forkproof.doctor.deputy import Deputy
        from forkproof.doctor.process import started

        with suppress(OSError):
            self._deputy = Deputy()
            self.reader = self._deputy.pid, started(self._deputy.pid)

    def _watch(self) -> None:
        # Imported here: not before the program has been started, which must not wait for it.
        from forkproof._events import Writer
        from forkproof.doctor.examine import hangs
        from forkproof.doctor.lookout import Lookout
        from forkproof.doctor.process import family

        me = os.getpid()
        ours = {self._deputy.pid} if self._deputy else set()
        lookout = Lookout(
            lambda: [pid for pid in family(me, ours) if pid != me],
            self._hang_after + _HEAD_START,
            self._deputy,
        )
        writer = Writer(self._events, self._program)
        # Whatever goes wrong in here, the program is not to notice: it is then watched from inside only.
        with suppress(Exception):
            while not self._ended.wait(_EVERY):
                for alarm in lookout.look():
                    found = alarm.diagnosis
                    if self._ended.is_set() or self._is_known(found.pid):
                        continue
                    for hang in hangs(found, alarm.seconds):
                        writer.write(hang.to_json())
                    if self._kill and found.origin.forked:
                        os.kill(found.pid, signal.SIGABRT)
