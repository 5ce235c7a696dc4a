"""Inside the program: one thing changed about its forks, so that `forkproof verify` can see what difference it makes.

Called before the program runs and before Forkproof is installed. The source of the program stays as it is: a pause
comes from an at-fork callback, a hazard is singled out where the guard asks what may be left alone
(`guard._consider`), a start method is exchanged in multiprocessing's own table. Imports nothing that was not asked for.
"""

from __future__ import annotations

import os
import sys

from .. import _native, guard
from .._events import Writer
from ..evidence import naming
from .disturb import disturb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._native import Sighting


def intervene(change: dict[str, Any]) -> None:
    """Make the changes that the keys name; each may be absent.

    pause         seconds between the call that forks and the fork
    preload       names of modules to import first
    folder        where the program's own modules are, for `preload`
    only          names of hazards: of what is there when the program comes to fork, the policy waits for these alone
    without       names of hazards: the policy waits for all but these
    disturb       what `disturb.py` varies
    start_method  of multiprocessing, in the place of "fork"
    facts         a file, always with `only` and `without`, for what the events do not tell: `_observe`, `_wait_for`
    """
    facts = Writer(change["facts"]) if "facts" in change else None
    if "preload" in change:
        _preload(change["preload"], change.get("folder"))
    if "start_method" in change:
        _replace_fork(change["start_method"])
    if "disturb" in change:
        disturb(change["disturb"])
    if "pause" in change:
        _pause(change["pause"])
    if facts is None:
        return
    if "only" in change:
        wanted = frozenset(change["only"])
        _wait_for(lambda name: name in wanted, facts, alone=True)
    elif "without" in change:
        unwanted = frozenset(change["without"])
        _wait_for(lambda name: name not in unwanted, facts, alone=False)
    else:
        _observe(facts)


def _preload(names: list[str], folder: str | None) -> None:
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        for name in names:
            __import__(name)
    finally:
        if folder is not None:
            sys.path.remove(folder)


def _replace_fork(method: str) -> None:
    """For whoever asks for "fork", and for who takes what there is."""
    import multiprocessing.context

    contexts: dict[str, Any] = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    contexts["fork"] = contexts[method]
    multiprocessing.context._default_context._default_context = contexts[method]  # type: ignore[attr-defined]


def _pause(seconds: float) -> None:
    """The first to be registered, so the last to run before the fork."""
    from time import sleep

    os.register_at_fork(before=lambda: sleep(seconds))


def _wait_for(wanted: Callable[[str], bool], facts: Writer, *, alone: bool) -> None:
    """Have the guard leave alone the hazards whose names are not wanted; write, as JSON lines, what each fork met first.

    alone   What threads get into while the fork waits for a wanted hazard is waited for as well. The program as it is would
            not have forked there: a thread whose import was waited for goes straight on into the look-up that needed the
            import, and a fork in the middle of that would hang for a reason that the waiting has brought about.
    """
    settings = guard._settings
    consider = guard._consider
    judged: dict[
        int, tuple[Any, bool]
    ] = {}  # with the object, so that no id comes again, and whether it is wanted
    fork, waits = -1, False
    met: set[str] = set()

    def consider_some(seen: list[Sighting]) -> None:
        nonlocal fork, waits
        consider(seen)
        subjects = [(guard._name(s), s[7]) for s in seen if id(s[7]) not in settings.exempt]
        judged.update((id(subject), (subject, True)) for name, subject in subjects if wanted(name))
        first = fork != _native.forks()
        if first:
            fork = _native.forks()
            waits = any(wanted(name) for name, _ in subjects)
            met.update(name for name, _ in subjects)
        for _, subject in subjects:
            if not judged.setdefault(id(subject), (subject, False))[1] and (first or not (alone and waits)):
                settings.exempt[id(subject)] = subject

    def after_in_parent(report: tuple[Any, ...]) -> BaseException | None:
        if met:
            facts.write({"met": sorted(met)})
            met.clear()
        return after(report)

    after = guard._after_in_parent
    guard._consider, guard._after_in_parent = consider_some, after_in_parent
    _native.set_judged(judged)


def _observe(facts: Writer) -> None:
    """Write, as JSON lines: the sets of names that one lock goes by (a queue's mutex has three), and whether a fork was
    multiprocessing's."""
    after = guard._after_in_parent
    names: dict[int, tuple[Any, set[str]]] = {}
    said: set[str] = set()

    def after_in_parent(report: tuple[Any, ...]) -> BaseException | None:
        result = after(report)
        for sighting in report[2] or ():
            if sighting[3] in (naming.IMPORT, naming.CALL):
                continue
            _, known = names.setdefault(id(sighting[7]), (sighting[7], set()))
            name = guard._name(sighting)
            if name not in known:
                known.add(name)
                if len(known) > 1:
                    facts.write({"one_lock": sorted(known)})
        frame = sys._getframe(0)
        while frame.f_back is not None:
            frame = frame.f_back
            if (
                frame.f_globals.get("__name__") == "multiprocessing.popen_fork"
                and "multiprocessing" not in said
            ):
                said.add("multiprocessing")
                facts.write({"multiprocessing": True})
        return result

    guard._after_in_parent = after_in_parent
