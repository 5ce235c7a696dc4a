"""How Forkproof gets into a program: by two marks in the environment, that `_start/sitecustomize.py` takes out again.

The launcher marks the environment of the program that it starts. Where the program replaces itself (`os.exec*`) by the
interpreter that it runs on, the environment of that one call is marked in the same way, so that it goes on being watched;
everything else that the program starts sees the environment as it would be under python.

Guarantee: imports nothing that an interpreter has not loaded when it starts; whatever goes wrong, the program's own exec
goes on as it would have.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_START = os.fsencode(os.path.join(os.path.dirname(__file__), "_start"))
_following: set[int] = set()


def marked(environment: Mapping[bytes, bytes], options: dict[str, Any]) -> dict[bytes, bytes]:
    """The environment in which `_start/sitecustomize.py` runs first; it restores the one that is given."""
    former = environment.get(b"PYTHONPATH")
    first, _, others = (former or b"").partition(os.fsencode(os.pathsep))
    if first == _START:  # marked already, for the programs that this one starts
        former = others or None
    # Not JSON: reading it would make the program import json, re and what they need.
    packed = marshal.dumps({**options, "pythonpath": None if former is None else os.fsdecode(former)})
    return {
        **environment,
        b"PYTHONPATH": _START + os.fsencode(os.pathsep) + former if former else _START,
        b"_FORKPROOF_RUN": f"{sys.hexversion}:{packed.hex()}".encode(),
    }


def follow(options: dict[str, Any]) -> None:
    """Have each os.exec* of this process by its own interpreter start with `options` as well, and count forks on from
    where this process was before the last one. Without the extension (see guard.py) a program is not followed."""
    try:
        from forkproof import _native
    except ImportError:
        return
    _native.forks(options.get("forks", 0))

    def encoded(environment: Any) -> dict[bytes, bytes]:
        if environment is None:
            return _native.environment()
        return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}

    def about_to_exec(path: Any, arguments: Any, environment: Any) -> None:
        """Makes the call that the program is about to make, with the marks. If it comes back it has failed, and the
        program's own call, which comes next, will say so; so there is nothing to take back. Other audit hooks are asked at
        both calls, and what one of them refuses is refused."""
        me = get_ident()
        if me in _following:
            return
        _following.add(me)
        try:
            if _is_followed(path, arguments):
                now = {**options, "forks": _native.forks()}
                if not os.path.exists(options["events"]):  # of a launcher that has ended
                    now["events"] = None
                os.execve(path, arguments, marked(encoded(environment), now))
        except Exception:
            return
        finally:
            _following.discard(me)

    _native.follow_exec(about_to_exec)


def _is_followed(path: Any, arguments: Any) -> bool:
    """Whether exec of `path` starts this very interpreter, itself or for a script, and it will heed the marks."""
    line = [os.fsdecode(argument) for argument in arguments[1:]]
    status = os.stat(path)
    if not _is_this_interpreter(status):
        if isinstance(path, int) or not stat.S_ISREG(status.st_mode):
            return False
        with open(path, "rb") as file:
            first = file.readline(256)
        interpreter, *option = (
            os.fsdecode(first[2:]).strip().split(maxsplit=1) if first[:2] == b"#!" else [""]
        )
        if not interpreter or not _is_this_interpreter(os.stat(interpreter)):
            return False
        line = [*option, "script"]
    return not _ignores_environment(line)


def _is_this_interpreter(status: os.stat_result) -> bool:
    # Not sys.executable where it can be helped: that is what argv[0] would find on PATH, perhaps another interpreter.
    running = "/proc/self/exe" if sys.platform == "linux" else sys.executable
    return bool(running) and os.path.samestat(status, os.stat(running))


def _ignores_environment(line: list[str]) -> bool:
    """Whether python's options at the beginning of `line` have -E, -I or -S among them."""
    rest = iter(line)
    for argument in rest:
        if argument[:1] != "-" or argument in ("-", "--"):
            return False
        if argument == "--check-hash-based-pycs":
            next(rest, None)
            continue
        for at, letter in enumerate(argument[1:], 2):
            if letter in "cm-":
                return False
            if letter in "EIS":
                return True
            if letter in "WX":
                if not argument[at:]:
                    next(rest, None)
                break
    return False
