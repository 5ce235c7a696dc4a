"""Programs in C that run Python inside themselves and fork on their own: no at-fork hook runs there, so nothing can be waited for.

Which they are is known for uWSGI, and told once at its start, unless it is asked to load the application after the fork. That it
has happened is known for any program: the extension's pthread_atfork handler runs in the child whoever has forked. It is told
where Python code next has a turn in that child: in a hook that the program offers, in Python's own hooks where the program
runs them (uWSGI's --py-call-osafterfork), or at the child's own first fork. A child that goes straight on to another program says nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_LAZY = ("lazy-apps", "lazy")
_ADVICE = (
    "forkproof: uWSGI forks its workers in C, where nothing is seen or waited for: load the application after the fork "
    "(--lazy-apps), or start its threads there (uwsgidecorators.postfork)"
)


class _WhenThere:
    """uWSGI adds its module after the interpreter's start-up files and before the application: the next import finds it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        module = sys.modules.get("uwsgi")
        if module is not None and self in sys.meta_path:
            sys.meta_path.remove(self)
            _use(module)


_waiting = _WhenThere()
_met = False
_unseen: Callable[[], int] = int
_warns: Callable[[], bool] = bool


def notice(unseen: Callable[[], int], warns: Callable[[], bool]) -> None:
    """Called once Forkproof is on: where the program is such a one, it is told so, and its hook is used.

    `unseen`: how many other threads of Python's there were when C code forked this process. `warns`: whether to say what is wrong."""
    global _met, _unseen, _warns
    _unseen, _warns = unseen, warns
    if _met or os.path.basename(sys.executable or "") != "uwsgi":
        return
    _met = True
    module = sys.modules.get("uwsgi")
    if module is None:
        sys.meta_path.insert(0, _waiting)
    else:
        _use(module)


def _use(uwsgi: ModuleType) -> None:
    if any(uwsgi.opt.get(name) for name in _LAZY):
        return
    say(_ADVICE)
    try:
        import uwsgidecorators  # keeps a list of such hooks, and its import replaces whatever was the hook before

        uwsgidecorators.postfork(tell)
    except Exception:  # not installed, or uWSGI runs without a master
        before = getattr(uwsgi, "post_fork_hook", None)

        def after_fork() -> None:
            tell()
            if before is not None:
                before()

        vars(uwsgi)["post_fork_hook"] = after_fork


def tell() -> None:
    """Says of a process that C code has forked from one with other threads what that means; once."""
    threads = _unseen()
    if threads:
        others = "another thread" if threads == 1 else f"{threads} other threads"
        say(
            f"forkproof: process {os.getpid()} was forked by C code beside {others} of Python's; what these held was neither "
            "seen nor waited for, and the process may hang (docs/servers.md)"
        )


def say(line: str) -> None:
    """One line on stderr, by one write, for those who ask to be warned."""
    try:
        if _warns():
            os.write(2, (line + "\n").encode())
    except OSError:  # nobody is there to read it
        pass
