"""Forkproof makes `fork()` safe to use in programs that have threads.

    import forkproof
    forkproof.install()

From then on every fork looks at what the other threads hold, waits for a safe point, and lets the child start with no
lock that a vanished thread would have to give back.
"""

from __future__ import annotations

from ._errors import ForkRiskError, ForkRiskWarning
from .contexts import get_context
from .guard import assess, declare_safe, install, uninstall

__all__ = [
    "ForkRiskError",
    "ForkRiskWarning",
    "assess",
    "declare_safe",
    "get_context",
    "install",
    "uninstall",
]
__version__ = "0.1.0"
