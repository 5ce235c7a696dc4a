"""When a lock counts as mended by a callback in the child that frees the locks it finds (PyMongo's does)."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from forkproof.evidence.mended import mends

LOCK, OTHER = threading.Lock(), threading.Lock()
LOCKS = weakref.WeakSet([LOCK])
OTHERS = [OTHER]


def frees_all() -> None:
    for lock in LOCKS:
        if lock.locked():
            lock.release()


def renews_all() -> None:
    for lock in LOCKS:
        lock._at_fork_reinit()


REGISTRY = {1: weakref.ref(LOCK)}
CONDITIONS = [threading.Condition(LOCK)]


def renews_each_by_its_registry() -> None:
    for reference in list(REGISTRY.values()):
        renew(reference())


def renews_a_condition() -> None:
    for condition in CONDITIONS:
        condition._at_fork_reinit()


def renew(lock: threading.Lock) -> None:
    lock._at_fork_reinit()


def lists_this_and_renews_another() -> None:
    for lock in LOCKS:
        print(lock)
    renew_the_other()


def renew_the_other() -> None:
    for lock in OTHERS:
        lock._at_fork_reinit()


def takes_and_gives_back() -> None:
    for lock in LOCKS:
        lock.acquire()
        if lock.locked():
            lock.release()


def frees_others_while_it_holds_this() -> None:
    with LOCK:
        for lock in OTHERS:
            if lock.locked():
                lock.release()


def gives_back_all() -> None:
    """What a before-callback has taken (loguru)."""
    for lock in LOCKS:
        lock.release()


def frees_those_of_a_closure() -> Callable[[], None]:
    locks = {LOCK}

    def free() -> None:
        for lock in locks:
            if lock.locked():
                lock.release()

    return free


@pytest.mark.parametrize(
    "callback",
    [
        frees_all,
        gives_back_all,
        frees_those_of_a_closure(),
        renews_all,
        renews_each_by_its_registry,
        renews_a_condition,
    ],
)
def test_a_callback_that_frees_the_lock_mends_it(callback: Callable[[], None]) -> None:
    assert mends([callback], LOCK, "lock")
    assert not mends([callback], OTHER, "lock")


@pytest.mark.parametrize(
    "callback",
    [
        takes_and_gives_back,
        frees_others_while_it_holds_this,
        lists_this_and_renews_another,
    ],
)
def test_a_callback_that_needs_it_or_frees_others_does_not(callback: Callable[[], None]) -> None:
    assert not mends([callback], LOCK, "lock")


class Changing(weakref.WeakSet):  # type: ignore[type-arg]
    """As one to which other threads add while it is gone through."""

    def __iter__(self) -> object:  # type: ignore[override]
        raise RuntimeError("Set changed size during iteration")


CHANGING = Changing([LOCK])


def renews_what_changes() -> None:
    for lock in CHANGING:
        lock._at_fork_reinit()


def test_a_set_that_other_threads_change_is_read_in_one_step() -> None:
    assert mends([renews_what_changes], LOCK, "anything")
    assert not mends([renews_what_changes], OTHER, "anything")
