"""Forkproof makes `fork()` safe to use in programs that have threads.

    import forkproof
    forkproof.install()

From then on every fork looks at what the other threads hold, waits for a safe point, and lets the child start with no
lock that a vanished thread would have to give back.

(PYTEST_DONT_REWRITE: for a pytest that finds this imported already, as under `forkproof run -m pytest`.)
"""

from __future__ import annotations

from ._errors import ForkRiskError, ForkRiskWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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


def __getattr__(name: str) -> Any:
    """The guard comes with the first use of one of its functions: `forkproof.kit` and a pytest run without --forkproof
    do without."""
    if name == "get_context":
        from . import contexts as home
    elif name in ("assess", "declare_safe", "install", "uninstall"):
        from . import guard as home  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
