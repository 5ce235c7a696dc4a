"""The launcher: starts the program with Forkproof inside it, follows its events, and reports them.

The program and all its forked children append their events to one file (the user's `--events`, or a private
one that goes away again); this process reads along and renders.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from forkproof.export import Exports, sinks
from forkproof.launch.follow import marked
from forkproof.launch.outside import Outside
from forkproof.launch.supervise import end_as, supervise
from forkproof.launch.target import LaunchError, Target
from forkproof.model import Event, Fork, Hang, SharedConnection
from forkproof.report import EventLines, Pairing, Renderer, Terminal
from forkproof.report.command import to_files

STRICT_STATUS = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `forkproof run` was asked for."""

    policy: str | None = "wait"
    """None: without Forkproof."""
    wait: float = 1.0
    repair: bool = True
    hang_after: float = 5.0
    on_hang: str = "report"
    events: str | None = None
    html: str | None = None
    perfetto: str | None = None
    otel: bool = False
    sentry: bool = False
    strict: bool = False
    emulate: tuple[tuple[str, float], ...] = ()
    """Names and delays in seconds, as `lab.emulate.parse` reads them."""
    trace_lookups: bool = False
    hide_moot_warnings: bool = True
    connections: bool = False
    """Whether children are watched for what they do with connections they inherit."""
    change: Mapping[str, Any] | None = None
    """An experiment's, for `lab.intervene`."""


def run(target: Target, options: Options) -> NoReturn:
    """Run the program and end as it ended. LaunchError or ExportError if it cannot be started; then nothing was."""
    check_interpreter()
    target.check()
    # It starts threads at the first event, when the program has been started: whoever forks here has none beside it.
    exports = Exports(
        sys.stderr, sinks(os.path.basename(target.name), otel=options.otel, sentry=options.sentry)
    )
    _open_standard_streams()
    with _events_file(options.events) as (path, file), ExitStack() as opened:
        files = to_files(opened, options.html, options.perfetto, title=target.name)
        follower = _Follower(file, [Terminal(sys.stderr), *files, exports])
        outside = Outside(path, target.name, options.hang_after, options.on_hang == "kill", follower.has_hung)
        env = environment(options, path, outside.reader)
        command = [sys.executable, *interpreter_options(), *target.line]

        def tick() -> None:
            outside.start()
            follower.read()

        returncode = supervise(command, env, tick)
        outside.stop()
        follower.finish()
    if options.strict and returncode == 0 and follower.at_risk:
        returncode = STRICT_STATUS
    end_as(returncode)


class _Follower:
    """Reads the events file as it grows. Nothing that goes wrong in here may reach the program or its
    status."""

    def __init__(self, file: BinaryIO, renderers: Sequence[Renderer]) -> None:
        self.at_risk = False
        self._file = file
        self._renderers = renderers
        self._lines = EventLines()
        self._pairing = Pairing()
        self._failed = False
        self._hung: set[int] = set()

    def has_hung(self, pid: int) -> bool:
        """Whether a hang of that process has been told."""
        return pid in self._hung

    def read(self) -> None:
        """Render what has come since."""
        with self._guarded():
            while data := self._file.read(1 << 20):
                self._take(self._lines.feed(data))
            self._show(last=False)

    def finish(self) -> None:
        """The program has ended: render what is left, and the summary."""
        self.read()
        with self._guarded():
            self._take(self._lines.close())
            self._show(last=True)
        for renderer in self._renderers:
            with self._guarded():
                renderer.finish()

    def _show(self, *, last: bool) -> None:
        for event in self._pairing.ready(last=last):
            for renderer in self._renderers:
                renderer.show(event)

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.at_risk |= isinstance(event, Fork) and event.risk != "none"
            self.at_risk |= isinstance(event, SharedConnection)
            if isinstance(event, Hang):
                self._hung.add(event.pid)
            self._pairing.add(event)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._failed = True
                with suppress(OSError):  # that may be what failed
                    sys.stderr.write(f"forkproof: no report: {type(error).__name__}: {error}\n")
                    sys.stderr.flush()


def _open_standard_streams() -> None:
    """Where this process was given no stdin, stdout or stderr, have nothing else take its number.

    What python opens is not inherited, so the program is given none either.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # for as long as this process lives
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def check_interpreter() -> None:
    if sys.flags.no_site or sys.flags.ignore_environment:
        raise LaunchError(
            "python's options -S, -E and -I keep forkproof out of the program; "
            "leave them out, or call forkproof.install() in the program"
        )


def interpreter_options() -> list[str]:
    """The options that this interpreter was given (`python -X dev -m forkproof run ...`)."""
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():  # older Pythons leave some out
        option = name if value is True else f"{name}={value}"
        if option not in options:
            options += ["-X", option]
    if sys.stdout.write_through and not os.environ.get("PYTHONUNBUFFERED"):  # type: ignore[union-attr]
        options.append("-u")
    return options


def environment(
    options: Options, events: str | None, reader: tuple[int, int] | None = None
) -> dict[bytes, bytes]:
    """What the program is started with, for `_start/sitecustomize.py`; `reader` is for `_native.name_reader`."""
    return marked(
        os.environb,
        {
            "policy": options.policy,
            "wait": options.wait,
            "repair": options.repair,
            "hang_after": options.hang_after,
            "on_hang": options.on_hang,
            "emulate": options.emulate,
            "trace_lookups": options.trace_lookups,
            "hide_moot_warnings": options.hide_moot_warnings,
            "connections": options.connections,
            "change": options.change,
            "events": events,
            "reader": reader,
        },
    )


@contextmanager
def _events_file(wanted: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """The path of an empty file for event lines, and the file open for reading."""
    if wanted is None:
        handle, path = tempfile.mkstemp(prefix="forkproof-", suffix=".jsonl")
        try:
            with os.fdopen(handle, "rb") as file:
                yield path, file
        finally:
            os.unlink(path)
        return
    path = os.path.abspath(wanted)
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise LaunchError(f"cannot write events to {wanted!r}: not an ordinary file; name another")
        opened = open(path, "w+b")  # noqa: SIM115  # what goes wrong with the program is not the file's fault
    except OSError as error:
        why = f"cannot write events to {wanted!r}: {error.strerror}; name another file"
        raise LaunchError(why) from None
    with opened:
        yield path, opened
