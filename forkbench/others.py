"""What people have today, asked about the child that hangs: what it prints, and what of the truth is in that.

A row of `TOOLS` is a tool: its name, and what makes it print all that it knows of one process. They are asked about the child
that hangs bare, held for them by the program itself (`CORPUS_ASK`, in common/harness.py), and about that child's own children.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PATIENCE = 60.0  # seconds for one tool and one process


@dataclass(frozen=True)
class Tool:
    """`ask(pid, folder)`: all that it prints of a process, `folder` being the one that `CORPUS_ASK` names; None: it is not here."""

    name: str
    ask: Callable[[int, pathlib.Path], str | None]


def _command(*words: str) -> Callable[[int, pathlib.Path], str | None]:
    """A program that is installed beside this interpreter or on the path; `{pid}` stands for the process."""

    def ask(pid: int, folder: pathlib.Path) -> str | None:
        program = shutil.which(words[0], path=str(pathlib.Path(sys.executable).parent)) or shutil.which(
            words[0]
        )
        if program is None:
            return None
        try:
            told = subprocess.run(
                [program, *(word.format(pid=pid) for word in words[1:])],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""
        return told.stdout

    return ask


def _faulthandler(pid: int, folder: pathlib.Path) -> str:
    """By the signal for which the program has registered it. A process that would die of the signal is left alone."""
    file = folder / "faulthandler"
    before = file.stat().st_size if file.exists() else 0
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
        if not caught or not int(caught[1], 16) >> (signal.SIGUSR2 - 1) & 1:
            return ""
        os.kill(pid, signal.SIGUSR2)
    except OSError:
        return ""
    end, size = time.monotonic() + 5, -1
    while time.monotonic() < end and (size <= before or size != file.stat().st_size):  # it grows no more
        size = file.stat().st_size
        time.sleep(0.2)
    return file.read_bytes()[before:].decode("utf-8", "replace")


# The signal comes last: the others find the process untouched.
TOOLS = (
    Tool("py-spy", _command("py-spy", "dump", "--native", "--pid", "{pid}")),
    Tool("pystack", _command("pystack", "remote", "--native", "{pid}")),
    Tool("faulthandler", _faulthandler),
)


def _family(pid: int) -> Iterator[int]:
    """A process and all that it has begun, which may be what it waits for."""
    yield pid
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))


def ask_all(pid: int, folder: pathlib.Path) -> dict[str, str]:
    """What each tool that is here prints of a process that hangs, by the tool's name."""
    family = list(_family(pid))
    told: dict[str, str] = {}
    for tool in TOOLS:
        texts = [tool.ask(each, folder) for each in family]
        if texts[0] is not None:
            told[tool.name] = "\n".join(filter(None, texts))
    return told
