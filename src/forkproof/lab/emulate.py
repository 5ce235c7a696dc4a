"""Another platform's behaviour on this one: `forkproof run --emulate`.

The one there is, `getaddrinfo-lock`, is the lock around name resolution that CPython had on macOS, OpenBSD and NetBSD when
PyMongo met it (docs/reference/emulate.md says in which versions). It runs inside the program, so nothing is imported here that the
program might have imported itself.
"""

from __future__ import annotations

from .. import catalogue

NAMES = ("getaddrinfo-lock",)


def parse(text: str) -> tuple[str, float]:
    """The name and the delay in seconds of `NAME[:DELAY_MS]`. ValueError, in one sentence, for anything else."""
    name, colon, delay = text.partition(":")
    if name not in NAMES:
        raise ValueError(f"{name!r} is not one of: {', '.join(NAMES)}")
    if colon and not (delay.isascii() and delay.isdigit() and len(delay) <= 6):
        raise ValueError(f"the delay in {text!r} is not a whole number of milliseconds")
    return name, int(delay or 0) / 1000


def emulate(asked: list[tuple[str, float]], trace: bool) -> None:
    """Behave so in this process, and in those forked from it, from here on.

    asked   what `parse` made of each --emulate
    trace   write each look-up's steps to stderr
    """
    if not asked and not trace:
        return
    from ._emulate import install

    delays = dict(asked)
    install("getaddrinfo-lock" in delays, delays.get("getaddrinfo-lock", 0.0), trace)
    catalogue.emulated.update(delays)
