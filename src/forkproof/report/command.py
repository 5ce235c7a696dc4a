"""Where reports go: the command `forkproof report`, and the files that `run` writes beside its own."""

from __future__ import annotations

import glob
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TextIO

from forkproof.report import Renderer, Terminal, events_in


class ReportError(Exception):
    """A report cannot be written: one line that says what is wrong and what to do."""


def report(files: Sequence[str], *, html: str | None, perfetto: str | None) -> int:
    """Show the events of `files` on stdout, or write them to the files that are named; the exit status.

    ReportError, before anything is read, where one cannot be written.
    """
    with ExitStack() as opened:
        title = ", ".join(
            dict.fromkeys(
                os.path.basename(os.path.abspath(file)) if file != "-" else "stdin" for file in files
            )
        )
        renderers = to_files(opened, html, perfetto, title)
        asked_for_files = bool(renderers)
        renderers = renderers or [Terminal(sys.stdout, always=True)]
        notes: list[str] = []
        read = 0
        try:
            for file in all_files(files, notes):
                read += _take(
                    file, renderers, notes, prefix=f"{file}: " if len(files) > 1 or file not in files else ""
                )
            if not read:
                sys.stderr.writelines(f"forkproof: {note}\n" for note in notes)
                return 2
            for renderer in renderers:
                for note in notes:
                    renderer.note(note)
                renderer.finish()
        except BrokenPipeError:  # `| head` has seen enough
            sys.stdout = None  # python must not complain about it at exit
            return 0
    if asked_for_files:
        sys.stderr.writelines(f"forkproof: {note}\n" for note in notes)
    return 0


def to_files(opened: ExitStack, html: str | None, perfetto: str | None, title: str) -> list[Renderer]:
    """Renderers that write to the files so named, which `opened` closes. ReportError where that cannot be done."""
    renderers: list[Renderer] = []
    if html is not None:
        from forkproof.report.html import Html

        try:
            import jinja2  # noqa: F401  # before the file is opened, and so emptied
        except ModuleNotFoundError:
            raise ReportError(
                "--html needs jinja2; install it with: pip install 'forkproof[report]'"
            ) from None
        renderers.append(Html(_writable(opened, html), title=title))
    if perfetto is not None:
        from forkproof.report.perfetto import Perfetto

        renderers.append(Perfetto(_writable(opened, perfetto)))
    return renderers


def _writable(opened: ExitStack, name: str) -> TextIO:
    if name == "-":
        return sys.stdout
    try:
        return opened.enter_context(open(name, "w", encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"cannot write to {name!r}: {error.strerror}; name another file") from None


def all_files(names: Sequence[str], notes: list[str]) -> Iterator[str]:
    """The files themselves: of a folder, those in and below it whose name says that they have events; of a pattern that is no
    file (`logs/**/*.jsonl`), those that it fits."""
    for name in names:
        if os.path.isdir(name):
            inside = sorted(
                os.path.join(folder, entry)
                for folder, _, entries in os.walk(name, onerror=partial(_note, notes))
                for entry in entries
                if entry.endswith((".jsonl", ".jsonl.gz"))
            )
            if not inside:
                notes.append(f"no *.jsonl and no *.jsonl.gz in {name!r}")
            yield from inside
        elif glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(path for path in glob.iglob(name, recursive=True) if not os.path.isdir(path))
            if not found:
                notes.append(f"no file fits {name!r}; check the pattern")
            yield from found
        else:
            yield name


def _note(notes: list[str], error: OSError) -> None:
    notes.append(f"cannot read {error.filename!r}: {error.strerror}")


def _take(name: str, renderers: Sequence[Renderer], notes: list[str], prefix: str) -> bool:
    """Give the events of one file to all renderers; whether there was a file to read."""
    try:
        if name != "-" and stat.S_ISDIR(os.stat(name).st_mode):
            return False
        file = _stdin() if name == "-" else open(name, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        notes.append(f"cannot read {name!r}: {error.strerror}; check the path")
        return False
    with file:
        for renderer in renderers:
            renderer.begin()
        for event in events_in(file, lambda note: notes.append(prefix + note)):
            for renderer in renderers:
                renderer.show(event)
    return True


def _stdin() -> io.BufferedReader:
    return open(sys.stdin.fileno(), "rb", closefd=False)
