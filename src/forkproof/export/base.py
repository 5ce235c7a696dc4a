"""What events are sent to, and the thread that sends them.

Guarantees: whoever follows the events never waits for a network. What cannot be kept up with is dropped and counted, at most
`_MOST` events are kept, and the end is waited for at most `_PATIENCE` seconds. What a library has to say of a server that does not
answer is said once.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TextIO

from forkproof.model import Event
from forkproof.report import Renderer
from forkproof.report._text import clean
from forkproof.report._words import number

_MOST = 10_000
_PATIENCE = 5.0


class ExportError(Exception):
    """Events cannot be exported as was asked for: one line that says what to do."""


class Sink(ABC):
    """Somewhere to send events. Every method but `check` is called in the exporting thread."""

    name: str
    extra: str
    """Of forkproof's, with its library in a version that fits."""

    @classmethod
    @abstractmethod
    def check(cls) -> None:
        """ExportError if its library or a setting is missing; imports no library."""

    @abstractmethod
    def open(self) -> None:
        """Get ready; may import, and start threads."""

    @abstractmethod
    def send(self, event: Event) -> None:
        """Take one event; it may be sent later."""

    @abstractmethod
    def close(self, seconds: float) -> None:
        """Send what is left, within about `seconds`."""


def need(option: str, extra: str, *modules: str) -> None:
    """ExportError, naming the extra, if one of `modules` is not installed."""
    for module in modules:
        found = None
        with suppress(ModuleNotFoundError):  # of a package around it
            found = importlib.util.find_spec(module)
        if found is None:
            raise ExportError(
                f"{option} needs {module.partition('.')[0]}; install it with: pip install 'forkproof[{extra}]'"
            )


class Exports(Renderer):
    """Hands events on to sinks. `start` may be left out: the first event does it."""

    def __init__(self, stream: TextIO, sinks: Sequence[Sink], *, patient: bool = False) -> None:
        """`patient`: `show` may wait until there is room, for who has nothing else to do."""
        super().__init__(stream)
        self._sinks = [*sinks]
        self._patient = patient
        self._queue: queue.Queue[Event | None] = queue.Queue(_MOST)
        self._thread: threading.Thread | None = None
        self._lost = 0
        self.has_failed = False
        """Whether no sink is left that takes events; why was said."""

    def start(self) -> None:
        if self._thread is None and self._sinks:
            self._thread = threading.Thread(target=self._export, name="forkproof-export", daemon=True)
            self._thread.start()

    def show(self, event: Event) -> None:
        self.start()
        while not self.has_failed and self._sinks:
            try:
                self._queue.put(event, self._patient, timeout=1.0)
            except queue.Full:
                if self._patient:
                    continue
                self._lost += 1
            return

    def note(self, text: str) -> None:
        return

    def finish(self) -> None:
        if self._thread is not None:
            until = time.monotonic() + _PATIENCE
            with suppress(queue.Full):
                self._queue.put(None, timeout=0 if self.has_failed else _PATIENCE)
            self._thread.join(max(until - time.monotonic(), 0))
            if self._thread.is_alive():
                self._say(f"not all was exported in {_PATIENCE:g} s")
        if self._lost:
            self._say(f"{number(self._lost, 'event')} not exported: they came too fast")

    def _export(self) -> None:
        # Imported here: not before the program has been started, which must not wait for it.
        from forkproof.export.complaints import hear

        hear(self._say)
        ready = [sink for sink in self._sinks if self._guarded(sink, sink.open)]
        while ready and (event := self._queue.get()) is not None:
            ready = [sink for sink in ready if self._guarded(sink, partial(sink.send, event))]
        self.has_failed = not ready
        for sink in ready:
            self._guarded(sink, partial(sink.close, _PATIENCE))

    def _guarded(self, sink: Sink, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # of a library's, whichever: the program is not to notice
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, ImportError):
                why += f"; install it with: pip install 'forkproof[{sink.extra}]'"
            self._say(f"nothing more is exported to {sink.name}: {why}")
            return False
        return True

    def _say(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self.stream.write(f"forkproof: {clean(text)}\n")
            self.stream.flush()


def setting(name: str, default: str = "") -> str:
    """A variable of the environment, "" being as if it were not set: as the libraries have it."""
    return os.environ.get(name, "").strip() or default
