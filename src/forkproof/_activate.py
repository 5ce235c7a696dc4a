"""How `forkproof run` switches Forkproof on in the program's process: called by launch/_start/sitecustomize.py."""

from __future__ import annotations

from .guard import install
from .launch.follow import follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def activate(options: dict[str, Any]) -> None:
    """Install with the launcher's options. Warnings are off: the launcher reports."""
    if options["reader"]:
        _name(*options["reader"])
    if options["emulate"] or options["trace_lookups"]:
        from .lab.emulate import emulate

        emulate(options["emulate"], options["trace_lookups"])
    if options["change"]:
        from .lab.intervene import intervene

        intervene(options["change"])
    if options["policy"] is None:
        return  # an experiment without Forkproof, or a program that the program has started
    install(
        policy=options["policy"],
        wait=options["wait"],
        repair=options["repair"],
        hang_after=options["hang_after"],
        on_hang=options["on_hang"],
        events=options["events"],
        warn=False,
        hide_moot_warnings=options["hide_moot_warnings"],
        connections=options["connections"],
    )
    follow(options)


def _name(pid: int, started: int) -> None:
    try:
        from . import _native
    except ImportError:  # then the launcher sees what it may see without
        return
    _native.name_reader(pid, started)
