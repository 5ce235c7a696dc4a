"""What a thread waits for: its system call, its Python frames and the lock behind them, put into words.

No verdict here. A wait says what could end it: `for_ever` means that only a thread of the same process can, and `mutex` that
this has to be the one that holds a lock, so that nobody would wait so on purpose.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from forkproof.doctor import importlock
from forkproof.doctor.between import Neighbours, Outside
from forkproof.doctor.native import NativeLock, lock_at
from forkproof.doctor.objects import BUFFERED, LOCKS, Objects
from forkproof.doctor.process import Process, Region, Task
from forkproof.doctor.semaphores import semlock, shared
from forkproof.doctor.stacks import PythonFrame, Stack

_IMPORTLIB = "<frozen importlib._bootstrap>"
_DEPTH = 8  # frames from the innermost outward that may hold the lock in a variable


@dataclass(frozen=True, slots=True)
class PythonLock:
    """The lock object that a thread waits for."""

    what: str
    """By a name that a person recognises: `the import of encodings.idna`, `the lock '_lock' of Topology`."""
    address: int
    owner: int | None
    """The ident of the thread that has it, where the object says so."""
    kind: str
    """`import-lock` or `held-lock`."""
    is_certain: bool = True
    """The owner was read where the lock has it; otherwise it was guessed."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What one thread waits for."""

    kind: str
    """`import-lock`, `held-lock`, `native-call`, `vanished-worker`, `notification`, `work`, `gil`, `system` or `running`."""
    what: str
    for_ever: bool = False
    lock: PythonLock | None = None
    native: NativeLock | None = None
    parked: int = 0
    """The address that CPython (3.13 on) has parked the thread at."""
    things: frozenset[int] = frozenset()
    """The objects of which one has to answer, where another thread is to see to it: a future, a queue, an event loop."""

    joined: int | None = None
    """The thread whose end it waits for, by the id that the process itself knows, where that is seen."""
    outside: Outside | None = None
    """Where processes are to end it: which."""

    @property
    def is_lock(self) -> bool:
        """Somebody has to let go of something."""
        return self.kind in ("import-lock", "held-lock", "native-call")


def wait_of(
    task: Task,
    stack: Stack | None,
    process: Process,
    regions: Sequence[Region],
    objects: Objects | None,
    neighbours: Neighbours | None,
) -> Wait:
    """What `task` waits for, given its stack (None where there is none)."""
    stack = stack or Stack(task.tid)
    named, frame = _named(stack.python)
    wait = _wait(task, stack, process, regions, objects, named, neighbours)
    if neighbours and not wait.outside and not wait.for_ever:
        wait = replace(wait, outside=neighbours.outside(task))
    if not objects or not named or not frame or wait.kind not in (named["kind"], "system"):
        return wait
    if thread := frame.variables.get(named.get("joins", "")):
        wait = replace(wait, joined=objects.number(objects.attributes(thread.address).get("_native_id", 0)))
    variables = {name: variable.address for name, variable in frame.variables.items()}
    things = {thing for path in named.get("things", ()) for thing in objects.follow(path, variables)}
    answering = {
        other
        for path in named.get("by", ())
        for thing in things
        for other in objects.follow(f"thing.{path}", {"thing": thing})
    }
    entry = next((frame for frame in stack.python if frame.function == "run_until_complete"), None)
    if entry and wait.kind == "system" and (future := entry.variables.get("future")):
        wait = replace(wait, what=_with_await(wait.what, future.address, objects))
    return replace(wait, things=frozenset(things | answering))


def in_words(task: int, objects: Objects) -> str:
    """The coroutines of a task of asyncio's: `main() > fetch()`; "" where they cannot be read."""
    return " > ".join(f"{name}()" for name in objects.awaits(task)[0])


def _with_await(what: str, task: int, objects: Objects) -> str:
    """A loop's wait, with what the task awaits that it was started for."""
    names, future = objects.awaits(task)
    if not names:
        return what
    kind = objects.kind(future)
    if kind in ("_asyncio.Task", "Task"):
        awaited = f"another task, {in_words(future, objects) or 'of another kind'}"
    elif any(objects.kind(objects.inside(callback, "source")) for callback in objects.callbacks_of(future)):
        awaited = "a Future that a thread or a process is to complete"
    else:
        awaited = (
            "several tasks or futures"
            if kind == "_GatheringFuture"
            else "a future of the loop"
            if future
            else "something"
        )
    return f"{what}; {in_words(task, objects)} awaits {awaited}"


def _wait(
    task: Task,
    stack: Stack,
    process: Process,
    regions: Sequence[Region],
    objects: Objects | None,
    named: dict[str, Any] | None,
    neighbours: Neighbours | None,
) -> Wait:
    if task.state == "T" or task.state == "t":
        return Wait("system", "is stopped by a signal or a debugger")
    if task.call is None:
        return Wait("running", "runs" if task.state == "R" else "waits for the disk or the kernel")
    if stack.is_inside("take_gil"):
        return Wait("gil", "waits for the GIL, which another thread has")
    if not task.call.is_futex:
        outside = neighbours.outside(task) if neighbours else None
        if outside and outside.is_lock:
            return Wait("system", outside.what, outside=outside)
        return Wait(
            "system", _in_words(task, process, named, outside.what if outside else ""), outside=outside
        )
    native = lock_at(task.call.address, stack.native, regions, process.read)
    limit = " for some time" if task.call.timed else ""
    if objects and neighbours and not task.call.is_private:
        turn = named is not None and "lock" not in named["what"]
        outside = _shared_lock(task, stack.python, regions, objects, neighbours, turn)
        if outside:
            what = f"waits{limit} for {named['what'] if named else 'a lock that processes share'}"
            behind = f" (first for the lock of those who wait for that{outside.what})"
            whose = behind if turn else outside.what
            return Wait("process", what + whose, False, None, native, outside=outside)
    joins = native.kind == "thread"  # the kernel ends this wait, when that thread has ended
    for_ever = not task.call.timed and (task.call.is_private or joins)
    parked = objects.parked_at(task.call.address) if objects else 0
    if objects and (lock := _module_lock(stack.python, objects)):
        return Wait(lock.kind, f"waits for {lock.what}", for_ever, lock, native, parked)
    if objects and importlock.is_asked_for(stack):
        lock = _import_lock(task.call.address, parked, process, regions, objects.version)
        return Wait(lock.kind, f"waits for {lock.what}", for_ever, lock, native, parked)
    if native.kind in ("mutex", "rwlock", "thread"):
        return Wait("native-call", f"waits for {_native_in_words(native)}", for_ever, None, native)
    lock = _lock(stack.python, task.call.address, parked, objects) if objects else None
    if named and (_is_signal(stack.python, lock) or not (lock or _takes_lock(stack.python))):
        return Wait(named["kind"], f"waits{limit} for {named['what']}", for_ever, lock, native, parked)
    if lock:
        return Wait("held-lock", f"waits{limit} for {lock.what}", for_ever, lock, native, parked)
    if objects and (queue := _simple_queue(stack.python, task.call.address, parked, objects)):
        what = f"waits{limit} for an item of a SimpleQueue"
        return Wait("vanished-worker", what, for_ever, None, native, parked, frozenset({queue}))
    if not stack.python or _is_foreign(native):
        if native.caller and native.caller.library.rpartition("/")[2].startswith("_multiprocessing."):
            what = f"waits{limit} for a lock or a semaphore that processes share"
            return Wait("process", what, False, None, native)
        who = f", in {_called(native)}" if native.caller else ""
        whom = "another thread" if task.call.is_private else "another process or thread"
        return Wait("vanished-worker", f"waits{limit} for {whom}{who}", for_ever, None, native)
    lock = (
        _anywhere(task.call.address, parked, stack.python, regions, objects) if objects and for_ever else None
    )
    what = lock.what if lock else "a lock of Python's"
    return Wait("held-lock", f"waits{limit} for {what}", for_ever, lock, native, parked)


def _shared_lock(
    task: Task,
    frames: Sequence[PythonFrame],
    regions: Sequence[Region],
    objects: Objects,
    neighbours: Neighbours,
    turn: bool,
) -> Outside | None:
    """The lock of multiprocessing's that a thread waits for, and which processes have it."""
    assert task.call
    futex = task.call.address
    region = next((one for one in regions if one.start <= futex < one.end and one.is_shared), None)
    places = (semlock(place, futex, objects) for _, place in _reached(frames, objects))
    address = next(filter(None, places), 0) if region else 0
    if not region or not address:
        return None
    return neighbours.shared_lock(shared(address, region, objects), "shared" if turn else "process-lock")


def _reached(frames: Sequence[PythonFrame], objects: Objects) -> Iterator[tuple[str, int]]:
    """The variables of the frames, innermost first, those of enclosing functions too, and their attributes: names and addresses."""
    for frame in frames[:_DEPTH]:
        for name, variable in frame.variables.items():
            address = objects.behind(variable.address)
            yield repr(name), address
            for inner, attribute in objects.attributes(address).items():
                yield f"{inner!r} of {objects.kind(address)}", attribute


def _is_foreign(native: NativeLock) -> bool:
    """The interpreter's own locks are asked for by the interpreter; this one by a library."""
    return native.caller is not None and not native.caller.is_python


def _native_in_words(lock: NativeLock) -> str:
    if lock.kind == "thread":
        return "the end of a thread" + (f", in {_called(lock)}" if lock.caller else "")
    kind = f"{lock.flavour} {lock.kind}" if lock.kind == "mutex" and lock.flavour else lock.kind
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind}" + (f", in {_called(lock)}" if lock.caller else "")


def _called(lock: NativeLock) -> str:
    assert lock.caller
    library = lock.caller.library.rpartition("/")[2]
    return f"{lock.caller.symbol} of {library}" if lock.caller.symbol else library


def _in_words(task: Task, process: Process, named: dict[str, Any] | None, whose: str) -> str:
    assert task.call
    words = task.call.words
    if "{fd}" in words:
        words = words.replace("{fd}", process.descriptor(task.call.arguments[0]))
    if (
        not named
        or named["kind"] in ("held-lock", "vanished-worker", "notification")
        or named["what"] in words
    ):
        return words + whose
    return f"waits for {named['what']} ({words}{whose})"


@cache
def _table() -> tuple[tuple[dict[str, Any], ...], tuple[str, ...], tuple[str, ...]]:
    data = tomllib.loads(files(__package__).joinpath("waits.toml").read_text(encoding="utf-8"))
    # Entries that name a type come first: they say more.
    entries = sorted(data["wait"], key=lambda entry: "self" not in entry)
    return tuple(entries), tuple(data["machinery"]), tuple(data["machinery_folders"])


def _named(frames: Sequence[PythonFrame]) -> tuple[dict[str, Any] | None, PythonFrame | None]:
    """The entry of `waits.toml` for these frames, and the frame that it is for."""
    entries, machinery, folders = _table()
    found: tuple[dict[str, Any] | None, PythonFrame | None] = (None, None)
    for frame in frames:
        mine = frame.variables.get("self")
        matches = (
            entry
            for entry in entries
            if frame.function == entry["function"]
            and frame.file.endswith(entry["file"])
            and ("self" not in entry or (mine and mine.kind == entry["self"]))
        )
        if entry := next(matches, None):
            found = (entry, frame)
        elif not frame.file.endswith(machinery) and not any(folder in frame.file for folder in folders):
            break
    return found


def _import_lock(
    futex: int, parked: int, process: Process, regions: Sequence[Region], version: tuple[int, int]
) -> PythonLock:
    root = f"/proc/{process.pid}/root"
    found = importlock.find(futex, parked, version, regions, process.read, root, process.robust_lists)
    return PythonLock("the import lock", found.address, found.owner, "import-lock", found.is_certain)


def _module_lock(frames: Sequence[PythonFrame], objects: Objects) -> PythonLock | None:
    """The module lock that the innermost frame acquires."""
    if not frames or frames[0].file != _IMPORTLIB or frames[0].function != "acquire":
        return None
    mine = frames[0].variables.get("self")
    if not mine or mine.kind != "_ModuleLock" or objects.kind(mine.address) != "_ModuleLock":
        return None
    attributes = objects.attributes(mine.address)
    name = objects.text(attributes.get("name", 0)) or "a module"
    owner = objects.number(attributes.get("owner", 0))
    return PythonLock(f"the import of {name}", mine.address, owner, "import-lock")


def _lock(frames: Sequence[PythonFrame], futex: int, parked: int, objects: Objects) -> PythonLock | None:
    """The lock object that a thread waits for, by the variables of its frames: one of them, or an attribute of one."""

    def matches(address: int) -> bool:
        return objects.kind(address) in LOCKS and objects.is_waited_for_at(address, futex, parked)

    for name, address in _reached(frames, objects):
        if matches(address):
            return _python_lock(f"the lock {name}", address, objects)
        if objects.kind(address) in ("Condition", "Semaphore", "Event"):
            for inner in objects.attributes(address).values():
                if matches(inner):
                    return _python_lock(f"the lock of {name}", inner, objects)
    return None


def _simple_queue(frames: Sequence[PythonFrame], futex: int, parked: int, objects: Objects) -> int | None:
    """The queue written in C that the innermost frame waits for: its get() has no frame, and its lock no owner."""
    for variable in frames[0].variables.values() if frames else ():
        for one in (variable.address, *objects.attributes(variable.address).values()):
            if objects.kind(one) == "_queue.SimpleQueue" and objects.is_waited_for_at(one, futex, parked):
                return one
    return None


def _anywhere(
    futex: int, parked: int, frames: Sequence[PythonFrame], regions: Sequence[Region], objects: Objects
) -> PythonLock | None:
    """The lock object that a thread waits for, wherever it is in memory that is the process's own."""
    own = [
        (region.start, region.end)
        for region in regions
        if "rw" in region.permissions and not region.is_shared and region.path in ("", "[heap]")
    ]
    found = objects.holder_of(futex, parked, own)
    if not found:
        return None
    address, kind, owner = found
    name = kind.rpartition(".")[2]
    if kind in BUFFERED:
        return PythonLock(f"the lock of a {name} (a buffered file)", address, owner, "held-lock")
    kind, of = ("recursive lock", "threading.RLock") if name == "RLock" else ("lock", "threading.Lock")
    called = _global_name(objects.global_names(address, own), frames)
    what = f"the {kind} {called}" if called else f"a {kind} ({of})"
    return PythonLock(what, address, owner, "held-lock")


def _global_name(found: Sequence[tuple[str, str, bool]], frames: Sequence[PythonFrame]) -> str:
    """How the variable of a module is called for a person; of several, in modules that import it, the one whose code waits."""
    file = (
        frames[0].file.removesuffix("/__init__.py").removesuffix(".py").rpartition("/")[2] if frames else ""
    )
    if not found:
        return ""
    name, module, in_class = max(
        found, key=lambda one: (one[1].rpartition(".")[2] == file, one[1] != "__main__")
    )
    return f"{name!r} of {'a class of ' if in_class else ''}module {module}"


def _takes_lock(frames: Sequence[PythonFrame]) -> bool:
    """Whether the innermost frame does nothing but acquire the lock of a Condition."""
    return frames[0].file.endswith("/threading.py") and frames[0].function in (
        "__enter__",
        "_acquire_restore",
    )


def _is_signal(frames: Sequence[PythonFrame], lock: PythonLock | None) -> bool:
    """Whether a lock is only how threading lets a thread wait: nobody holds it to guard something."""
    inner = frames[0]
    return (
        lock is not None
        and inner.file.endswith("/threading.py")
        and inner.function in ("wait", "_wait_for_tstate_lock")
        and lock.address in (variable.address for variable in inner.variables.values())
    )


def _python_lock(what: str, address: int, objects: Objects) -> PythonLock:
    return PythonLock(what, address, objects.owner_of_recursive(address), "held-lock")
