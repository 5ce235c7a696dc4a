"""Switches Forkproof on from the environment: for a Dockerfile line, with no change to the program.

    FORKPROOF=on                                            as forkproof.install() does
    FORKPROOF=policy=wait,wait=0.5,events=/var/log/fp.jsonl with settings: the names are install()'s
    FORKPROOF=off                                           not at all (0, no and nothing at all too)

Importing this module does it, once. So does the start of every interpreter whose environment has the variable: the
package comes with a line for `site` (forkproof.pth), which looks for the variable and does no more where it is not set.

Guarantee: whatever the variable says and whatever goes wrong, the program starts. A setting that cannot be is told in one
line on stderr, and Forkproof stays off rather than on with settings that nobody asked for. A program under `forkproof run`
has that command's settings, not these.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "FORKPROOF"
_WORDS = {
    "on": True,
    "yes": True,
    "true": True,
    "1": True,
    "off": False,
    "no": False,
    "false": False,
    "0": False,
}
_KINDS = {
    "policy": str,
    "wait": float,
    "repair": bool,
    "hang_after": float,
    "on_hang": str,
    "events": str,
    "warn": bool,
    "hide_moot_warnings": bool,
    "connections": bool,
    "watch_all": bool,
}


def settings(text: str) -> dict[str, Any] | None:
    """The arguments for `install` that `text` asks for, None for not at all. ValueError says what cannot be."""
    text = text.strip()
    switch = _WORDS.get(text.lower()) if text else False
    if switch is not None:
        return {} if switch else None
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{part.strip()!r} is not name=value")
        if name not in _KINDS:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(_KINDS)}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = _value(name, value)
    return found


def _value(name: str, value: str) -> Any:
    kind = _KINDS[name]
    if kind is bool:
        if value.lower() not in _WORDS:
            raise ValueError(f"{name} must be yes or no, not {value!r}")
        return _WORDS[value.lower()]
    if kind is float:
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{name} must be a number of seconds, not {value!r}") from None
    return value


def _start() -> None:
    if "_FORKPROOF_RUN" in os.environ:
        return
    try:
        asked = settings(os.environ.get(VARIABLE, "on"))
        if asked is None:
            return
        from . import guard

        if not guard.elsewhere:  # a program may have hundreds, each with a start of its own
            guard.install(**asked)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            why = f"cannot write events to {error.filename!r}: {error.strerror}"
        else:
            why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        line = f"forkproof: off; {VARIABLE}: {why}".replace("\n", " ") + "\n"
        try:
            if sys.stderr is not None:
                sys.stderr.write(line)
        except (OSError, ValueError):  # nobody is there to read it
            pass


_start()
