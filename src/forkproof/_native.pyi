"""The C extension: reads frames, owns locks around a fork. Everything it returns is a snapshot.

A sighting is a tuple:
    (ident, native_id, state, kind, certain, mutex, draining, subject, manager, entry, code, offset, named_at, self, stack,
     orphan, name)
state     0 holds, 1 acquiring, 2 leaving, 3 inside a native call, 4 importing
draining  inside: the native lock is free as soon as the thread waits for the GIL again
kind      0 Lock, 1 RLock, 2 buffered file, 3 catalogued lock object, 4 semaphore, 5 native call, 6 import
subject   the lock, file, semaphore, callable or module lock itself
manager   the class through which it was taken, or None
entry     index into the catalogue's calls; -1: a lock that no frame shows to be held, its owner does;
          -2: a lock that a function took which has returned since, called at named_at
code, offset    where the frame that shows it stands (offset in bytes, as f_lasti)
named_at  offset of the instruction that took it, for `expression`; -1 none
self      class of the first parameter of that frame, or None
stack     [(code, offset), ...] of the thread, innermost first
orphan    after a wait: a lock that the child resets, as nobody who is there can have it
name      the thread's, as of the look: it may have ended since; None if threading has none for it
"""

import io
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
    int,
    str | None,
]

Waiting = tuple[int, float, float, bool, int, Sighting]
"""
(thread, seconds, still, for ever, owner, sighting): PyThreadState.id; for how long it has been seen waiting for the same;
for how long it has not run at all; whether the wait has no time-out; ident of the owner (RLock, buffered file), or 1 for a
lock that is taken and names none. The sighting's state is 1, 3 or 4; its kind may also be 7 not known (subject None), 8 a notification of
a condition (subject: the condition), 9 the end of a thread, 10 an item of a queue.
"""

def install(
    *,
    policy: int,
    repair: bool,
    wait: float,
    report_all: bool,
    watch_idle: bool,
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
def set_lines(file: tuple[int, int, int, bytes, Callable[[], object], tuple[str, ...]] | None, /) -> None:
    """Writes the lines of forks at which there is nothing to say but that they were: to (descriptor, device, inode, the end of a
    fork's line, what to call when half a line was written, the packages behind which who asked for a fork is looked for), while
    that is the same file. None: Python is asked to."""

def look() -> list[Sighting]:
    """Every other thread, whatever matters or not."""

def assess(search: bool = True, /) -> list[Sighting]:
    """What would be at risk if this thread forked now. `search` the heap even where that is not due."""

def waiters() -> list[tuple[Any, Any]]:
    """(condition, waiter) for each thread that stands in a Condition.wait."""

def set_calls(
    calls: dict[Any, tuple[int, int, int, bool, int]],
    unresolved: list[tuple[str, str, str | None, tuple[int, int, int, bool, int]]],
    locks: list[tuple[str, tuple[str, ...]]],
    awaited: tuple[str, ...],
) -> None:
    """callable -> (entry, resource, only, GIL retaken outside, streams). Only: 0 always, 1 with a host's name first, 2 with an
    address whose host is a name. Resource: 0 process, 1 object, 2 stream,
    3 the iterator that is the first argument. Streams, for a call that is given none: 1 stdin + 2 stdout + 4 stderr; for
    resource 3: how many references it has of its own. Of resource 4 the entry is one of the workers.

    `unresolved`: (module, name, method, facts) of what could not be found yet. `locks`: (marker, path) of what `add_foreign`
    could not be called for. `awaited`: modules whose import makes
    a refresh due.
    """

def set_workers(table: dict[str, tuple[tuple[str, int], ...]], each: list[bool], /) -> None:
    """Qualified name -> (end of the file name without ".py", entry) of the functions of that name; of each entry, whether it is told
    for each caller.

    To be called before anything is looked at: a code object is asked once.
    """

def workers() -> list[tuple[int, int, int, CodeType, int, dict[str, Any], list[tuple[CodeType, int]]]]:
    """Each other thread that runs a function of that table: entry, ident, native id, code and offset of that function's
    frame, its variables by name, and the stack, innermost first."""

def variables_of(thread: int, code: CodeType, /) -> dict[str, Any] | None:
    """The variables, by name, of the innermost frame that runs `code` in the thread of that PyThreadState.id."""

def users_of(thing: Any, /) -> list[int]:
    """PyThreadState.id of each thread one of whose frames has `thing` in a variable, in a global that its code names, or in an
    attribute of one of these that its code names."""

def expect_pools(there: bool, /) -> None:
    """Whether children are left without native threads that they may come to wait for, so that they want a watch."""

def native_threads() -> list[tuple[int, str, list[str]]]:
    """Each thread that Python does not know: thread id, name, and the libraries that its stack leads into, innermost first;
    none where it was running or the system forbids looking."""

def watchdog_was_reset() -> bool:
    """Whether this process is a child in which the lock that faulthandler's watchdog held in the parent was let go of."""

def libraries_of_thread(native_id: int) -> list[str]:
    """The same libraries for one thread of this process, if it is blocked."""

def set_semaphore(type: type) -> None: ...
def add_foreign(lock: Any, marker: str, path: tuple[str, ...]) -> None:
    """`marker`: what the file names of its library's frames contain. A lock object (acquire, release) that is owned at every fork because frames do not show who holds it.

    `path`: a module and attributes, by which the lock is found anew at each fork."""

def drop_foreign(lock: Any, /) -> None:
    """It is not to be owned: found by its path, and of a version of its library that mends itself."""

def set_exempt(exempt: dict[Any, Any]) -> None:
    """The dict itself is read at each fork: keys id(lock), or (thread ident,)."""

def set_judged(judged: dict[Any, Any]) -> None:
    """For experiments: `consider` is called again, with nothing owned, whenever a look finds a subject that matters and
    whose id is not a key of the dict. It must put each in here, or among the exempt."""

def last_clean() -> bool:
    """Whether nothing was left at risk at the last fork of this process."""

class ForkWarning:
    """Stands for the message in an item of `warnings.filters`."""

    pattern: str
    """A regular expression that matches nothing: for who copies the filters to another process."""
    def __init__(self, contains: tuple[str, ...], in_child: bool, /) -> None: ...
    def match(self, text: str, /) -> bool:
        """Whether it contains all of `contains`, and nothing was left at risk at the last fork of this process; `in_child`:
        at the watched fork that made this process, and at those that made its parents."""

def enter_warnings() -> bool:
    """Takes the lock of `warnings` (3.14 on) if that needs no waiting; True also where there is none."""

def leave_warnings() -> None: ...
def probe_buffered(file: Any) -> bool | None: ...
def expression(code: CodeType, offset: int) -> str | None:
    """The words by which the code knows the lock that is entered or called there: "self._lock"."""

def child_callbacks() -> list[Callable[[], object]]:
    """Other libraries' after_in_child callbacks, in the order in which they run."""

def code_units(code: CodeType) -> list[tuple[int, int, int]]:
    """For each code unit: stack depth (-1 unreachable, -2 inside an instruction), slot of the innermost `with` (-1 none),
    and the bits of locks whose release is still to come."""

def unseen() -> int:
    """How many other Python threads there were when C code forked this process without Python's hooks. Asked again, 0."""

def forks(count: int = ..., /) -> int:
    """How many forks this process has made; with `count` it goes on from there."""

def name_reader(pid: int, started: int, /) -> None:
    """Let a process, and those that it starts, look at this one where Yama would not, and at each that is forked from it. It is told
    from a later one of the same id by `started`, in clock ticks after the machine's start."""

def watch_connections(
    on: bool,
    events: str | None,
    remedies: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...],
    advice: str,
    /,
) -> bool:
    """Whether children of forks from here on are watched for what they do with connections they inherit; False where that
    cannot be. `events`: the file to tell of it, else stderr. `remedies`: (what, advice, parts of the names of its source files,
    of its shared objects), told once a process; `advice` where none fits."""

def inherited_connections() -> list[tuple[int, str, str, str, bool]]:
    """(descriptor, kind, local address, peer's, accepted) of what this process has inherited and is still watched."""

def watch_buffers(
    at_fork: Callable[[int, int, list[Any], bool], int] | None,
    at_exit: Callable[[], object] | None,
    buffered: io.BufferedWriter[Any] | None,
    text: io.TextIOWrapper | None,
    /,
) -> bool:
    """Calls `at_fork(origin, fork, files, in_child)` after each fork from here on at which files have something in their buffers
    or had at an earlier one; it returns how many it goes on to know. `at_exit()` runs at os._exit() of a child that has called
    `lead_exit()`. `buffered` and `text` are files of our own, to learn the layout from; False where that cannot be. None
    for all of them: no more."""

def buffer_state(file: Any, /) -> tuple[Any, int, int] | None:
    """(its buffered file, bytes in its buffers, a number that every write of it changes); None for what is no such file."""

def lead_exit() -> None:
    """In a child, while it has one thread."""

def count_writer(key: int, sure: bool, /) -> tuple[int, bool, bool]:
    """One more process has written what `key` stands for: (how many have, whether all were sure, whether it is to be told now).
    The number 0: there is no room to count."""

def follow_exec(function: Callable[[Any, Any, Any], object]) -> None:
    """Calls `function(path, arguments, environment or None)` before each os.exec* from here on; adds an audit hook, for ever."""

def environment() -> dict[bytes, bytes]:
    """The environment of C, which exec hands on where it is given none."""

def fail_at(step: int) -> None:
    """Tests: let the n-th step of the hooks fail as if memory had run out; 0 for none."""

def watch_start(
    judge: Callable[[list[Waiting], list[Sighting], int, list[Any], list[int]], list[int] | None],
    locks: list[Any],
    hang_after: float,
    every: float,
    /,
) -> bool:
    """Starts the thread that looks `every` so many seconds; False where there can be no other thread. See watch.py."""

def watch_stop() -> None: ...
def set_waits(methods: dict[Any, tuple[int, int]], /) -> None:
    """What waits in C: callable -> (kind, position of the time-out among the arguments; -1: it always has one)."""

def futex_of(native_id: int, /) -> tuple[bool, int, int] | None:
    """What a thread of this process sleeps on: (without time-out, native id of the mutex's owner or 0, address); None if
    nothing."""

def address_of_lock(lock: Any, /) -> int:
    """Of the word that a thread sleeps on which waits for this Lock or RLock; 0 where that is not known (3.14 on)."""

def count_threads() -> int:
    """Threads of this process, those that Python does not know included; 0 where that cannot be known."""

def is_locked(lock: Any, /) -> bool:
    """What a Lock or an RLock says of itself."""

def is_taken(lock: Any, /) -> bool:
    """What is true of it, also where a thread got it without the GIL and vanished before it could say so."""

def keep_record(text: bytes, /) -> bool:
    """Keeps the fork's event where a reader from outside finds it (docs/events.md); False where that cannot be."""
