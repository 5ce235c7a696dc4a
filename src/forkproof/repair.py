"""What the child puts right of imports that vanished threads were in the middle of, and of executors that lost theirs: those of
threads get new ones, those of processes, which are the parent's, say that they are broken.

Locks are reset in C, inside fork() itself (`_c/guard.c`). Imports need Python, and run first of all callbacks in the
child: the module lock of a vanished thread is dropped, so that the next import makes a fresh one, and the module that was
half imported leaves `sys.modules`, so that it is imported anew. Matched by the fork's record, never by the owner's ident,
which the child's first new thread may get again.

Guarantee: imports nothing, takes no lock, and touches nothing that the surviving thread is importing itself.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import _bootstrap as _untyped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .evidence.workers import Vanished

_bootstrap: Any = _untyped


def drop_imports(locks: list[Any], vanished: set[int]) -> list[str]:
    """Forget the imports that `locks` (importlib's module locks of vanished threads) stood for; returns their names.

    `vanished` are the idents of the threads that were importing: what they are noted to block on is forgotten as well, or
    a new thread with a reused ident would be taken for them by importlib's deadlock detection.
    """
    dropped = []
    for name, reference in list(_bootstrap._module_locks.items()):
        lock = reference()
        if any(lock is gone for gone in locks):
            _bootstrap._module_locks.pop(name, None)
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if getattr(spec, "_initializing", False):
                del sys.modules[name]
            dropped.append(name)
    blocking = getattr(
        _bootstrap._blocking_on, "data", _bootstrap._blocking_on
    )  # 3.12 on: a weak dictionary of its own
    for ident in vanished:
        blocking.pop(ident, None)
    return dropped


def mend_executors(
    executors: Iterable[tuple[object, object, list[object], list[Vanished]]],
) -> list[str]:
    """Let each executor start fresh workers for new work, and fail the futures of the jobs that its vanished workers had at
    hand or in their queue: those are done in the parent, and to do them here as well would do them twice. Returns what was
    mended, in words.

    No callback of those futures runs: it is the parent's. A worker that forked lives on in the child and is kept.
    """
    mended = []
    me = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
    for executor, queue, jobs, workers in executors:
        drained = _drain(queue)
        lost = sum(_fail(item, "queued") for item in drained) + sum(_fail(job, "at work") for job in jobs)
        if executor is not None and _is_ordinary(executor):
            threads: set[Any] = executor._threads  # type: ignore[attr-defined]
            threads.intersection_update({me})
            executor._idle_semaphore = threading.Semaphore(0)  # type: ignore[attr-defined]
            for worker in workers:
                worker.mended = True
            name = executor._thread_name_prefix or type(executor).__name__  # type: ignore[attr-defined]
            words = f"executor {name}: starts new threads"
            mended.append(f"{words}; {lost} of the parent's jobs failed here" if lost else words)
    return mended


def break_executors(
    executors: Iterable[tuple[object, str, list[object], Vanished]],
) -> list[str]:
    """Let each executor whose work is done by processes of the parent's refuse new work, as it does itself when one of them has died, and
    fail the futures of what it was given before: the parent has them done. Returns what was mended, in words.

    Whoever asks in the child gets an exception that says why, and would have waited for ever; a library that keeps such an executor
    and makes a new one when it finds it broken goes on with that. No callback of those futures runs.
    """
    mended = []
    for keeper, attribute, jobs, worker in executors:
        lost = sum(_fail(job, "at work") for job in jobs)
        setattr(
            keeper,
            attribute,
            _broken_pool()(
                f"the executor's processes are those of process {os.getppid()}, which forked; make an executor in this child"
            ),
        )
        worker.mended = True
        words = f"{worker.worker.what}: the executor is broken here"
        mended.append(f"{words}; {lost} of the parent's jobs failed here" if lost else words)
    return mended


def _broken_pool() -> type[Exception]:
    modules = (sys.modules.get(f"concurrent.futures.{name}") for name in ("process", "_base"))
    kinds = (
        getattr(module, name, None)
        for module, name in zip(modules, ("BrokenProcessPool", "BrokenExecutor"), strict=True)
    )
    return next((kind for kind in kinds if kind is not None), RuntimeError)


def _is_ordinary(executor: object) -> bool:
    """Whether it still has what the class of the standard library has, whatever has been derived from that."""
    kind = getattr(sys.modules.get("concurrent.futures.thread"), "ThreadPoolExecutor", None)
    return (
        kind is not None
        and isinstance(executor, kind)
        and type(getattr(executor, "_threads", None)) is set
        and type(getattr(executor, "_idle_semaphore", None)) is threading.Semaphore
    )


def _drain(queue: Any) -> list[Any]:
    """Everything in it; what is no job (the word to stop) stays."""
    taken: list[Any] = []
    while not queue.empty():
        taken.append(queue.get_nowait())
    for item in taken:
        if getattr(item, "future", None) is None:
            queue.put(item)
    return taken


def _fail(job: Any, was: str) -> bool:
    base = sys.modules.get("concurrent.futures._base")
    future = getattr(job, "future", None)
    if base is None or not isinstance(future, base.Future) or future._state not in ("PENDING", "RUNNING"):
        return False
    future._exception = base.BrokenExecutor(
        f"the job was {was} in process {os.getppid()} when that forked; it is done there and not in this child"
    )
    future._done_callbacks.clear()
    future._state = "FINISHED"
    return True
