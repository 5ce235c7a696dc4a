"""The C extension: reads frames, owns locks around a fork. Everything it returns is a snapshot.

A sighting is a tuple:
    (ident, native_id, state, kind, certain, mutex, draining, subject, manager, entry, code, offset, named_at, self, stack)
state     0 holds, 1 acquiring, 2 leaving, 3 inside a native call, 4 importing
kind      0 Lock, 1 RLock, 2 buffered file, 3 catalogued lock object, 4 semaphore, 5 native call, 6 import
subject   the lock, file, semaphore, callable or module lock itself
manager   the class through which it was taken, or None
entry     index into the catalogue's calls; -1: a lock that no frame shows to be held, its owner does
code, offset    where the frame that shows it stands (offset in bytes, as f_lasti)
named_at  offset of the instruction that took it, for `expression`; -1 none
self      class of the first parameter of that frame, or None
stack     [(code, offset), ...] of the thread, innermost first
"""

from collections.abc import Callable
from types import CodeType
from typing import Any

Sighting = tuple[
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    Any,
    type | None,
    int,
    CodeType,
    int,
    int,
    type | None,
    list[tuple[CodeType, int]],
]

def install(
    *,
    policy: int,
    repair: bool,
    wait: float,
    report_all: bool,
    refresh: Callable[[], object],
    consider: Callable[[list[Sighting]], object],
    after_parent: Callable[[tuple[Any, ...]], object],
    after_child: Callable[[tuple[Any, ...]], object],
    fault: Callable[[str, BaseException | None], object],
    warnings: Any,
    filter: Any,
) -> None:
    """Registers the hooks. `policy` is 0 to observe, 1 to wait; `wait` in seconds."""

def uninstall() -> None: ...
def look() -> list[Sighting]:
    """Every other thread, whatever matters or not."""

def assess(search: bool = True, /) -> list[Sighting]:
    """What would be at risk if this thread forked now. `search` the heap even where that is not due."""

def waiters() -> list[tuple[Any, Any]]:
    """(condition, waiter) for each thread that stands in a Condition.wait."""

def locked() -> list[Any]:
    """Every Lock and RLock of the process that is locked at this moment, signals included. In a
    child that has just been forked: what the parent's threads had locked."""

def set_calls(
    calls: dict[Any, tuple[int, int, bool, bool]],
    unresolved: list[tuple[str, str, str | None, tuple[int, int, bool, bool]]],
    awaited: tuple[str, ...],
) -> None:
    """callable -> (entry, resource, only host names, GIL retaken outside). Resource: 0 process, 1 object, 2 stream.

    `unresolved`: (module, name, method, facts) of what could not be found yet. `awaited`: modules whose import makes
    a refresh due.
    """

def set_semaphore(type: type) -> None: ...
def add_foreign(lock: Any, marker: str) -> None:
    """`marker`: what the file names of its library's frames contain. A lock object (acquire, release) that is owned at every fork because frames do not show who holds it."""

def set_exempt(exempt: dict[Any, Any]) -> None:
    """The dict itself is read at each fork: keys id(lock), or (thread ident,)."""

def last_clean() -> bool:
    """Whether nothing was left at risk at the last fork of this process."""

class ForkWarning:
    """Stands for the message in an item of `warnings.filters`."""

    def match(self, text: str, /) -> bool:
        """Whether it is CPython's warning about fork and threads, and the last fork left nothing at risk."""

def probe_buffered(file: Any) -> bool | None: ...
def expression(code: CodeType, offset: int) -> str | None:
    """The words by which the code knows the lock that is entered or called there: "self._lock"."""

def child_callbacks() -> list[Callable[[], object]]:
    """Other libraries' after_in_child callbacks, in the order in which they run."""

def code_units(code: CodeType) -> list[tuple[int, int, int]]:
    """For each code unit: stack depth (-1 unreachable, -2 inside an instruction), slot of the innermost `with` (-1 none),
    and the bits of locks whose release is still to come."""

def forks(count: int = ..., /) -> int:
    """How many forks this process has made; with `count` it goes on from there."""

def follow_exec(function: Callable[[Any, Any, Any], object]) -> None:
    """Calls `function(path, arguments, environment or None)` before each os.exec* from here on; adds an audit hook, for ever."""

def environment() -> dict[bytes, bytes]:
    """The environment of C, which exec hands on where it is given none."""

def fail_at(step: int) -> None:
    """Tests: let the n-th step of the hooks fail as if memory had run out; 0 for none."""
