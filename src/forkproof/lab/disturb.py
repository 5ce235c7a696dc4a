"""Inside the program: its threads scheduled otherwise, so that a rare moment becomes a frequent one.

Called before the program runs, as `intervene.py` is, which see. Nothing that is done here could not happen by itself on some
machine: threads are switched more or less often, they have fewer processors, and they are held up for a moment before a fork
or in a function that takes locks. Imports nothing but C modules of the interpreter's own.
"""

from __future__ import annotations

import os
import sys
from _random import Random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Trace = Callable[[FrameType, str, Any], Any]

MOST = 2.0
"""Seconds that all delays of one sort add up to in one process, so that a program with many of them still ends."""


def disturb(how: dict[str, Any]) -> None:
    """Make what follows different; each key may be absent.

    seed     of all that is drawn at random
    switch   seconds between two switches of threads (sys.setswitchinterval)
    cpus     the processors that it may run on
    fork     the longest delay before a fork, in seconds
    chance   at a line of a function that takes or gives back a lock, or of a module that is being imported, the probability
             of a delay; with `delay`, the longest one in seconds, and `opcodes`, numbers of those that a `with` begins by
    """
    draw = Random(how["seed"]).random
    if "cpus" in how:
        os.sched_setaffinity(0, how["cpus"])
    if "switch" in how:
        sys.setswitchinterval(how["switch"])
    if "fork" in how:
        pause = _pauses(draw, how["fork"])
        os.register_at_fork(before=pause)
    if "chance" in how:
        _delay_at_locks(draw, how["chance"], how["delay"], frozenset(how["opcodes"]))


def _pauses(draw: Callable[[], float], longest: float) -> Callable[[], None]:
    """A function that sleeps for up to `longest` seconds, MOST of them in all."""
    from time import sleep  # a C module that is part of the interpreter

    left = MOST

    def pause() -> None:
        nonlocal left
        seconds = draw() * longest
        if seconds <= left:
            left -= seconds
            sleep(seconds)

    return pause


def _delay_at_locks(
    draw: Callable[[], float], chance: float, longest: float, opcodes: frozenset[int]
) -> None:
    """By a trace function, in all threads that `threading` starts; only the functions in question are followed by the line."""
    import threading

    pause = _pauses(draw, longest)
    known: dict[int, tuple[CodeType, bool]] = {}  # with the code, so that no id comes again

    def has_locks(frame: FrameType) -> bool:
        code = frame.f_code
        name = frame.f_globals.get("__name__")
        if isinstance(name, str) and name.startswith("forkproof."):
            return False
        if code.co_name == "<module>":
            return name != "__main__"
        names = code.co_names
        return "acquire" in names or "release" in names or not opcodes.isdisjoint(code.co_code[::2])

    def at_call(frame: FrameType, event: str, argument: Any) -> Trace | None:
        code = frame.f_code
        found = known.get(id(code))
        if found is None:
            found = known[id(code)] = code, has_locks(frame)
        return at_line if found[1] else None

    def at_line(frame: FrameType, event: str, argument: Any) -> Trace:
        if event == "line" and draw() < chance:
            pause()
        return at_line

    threading.settrace(at_call)
    sys.settrace(at_call)
