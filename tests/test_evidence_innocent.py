"""What only looks like holding, and threads at the edge: their first and last instruction, no frame, very many, very deep."""

# ruff: noqa: F811
from __future__ import annotations

import _thread
import multiprocessing
import os
import select
import sys
import threading
from typing import Any

from looking import FULL, Stage, expect, holds, sightings, until
from looking import stage as stage  # the fixture

import forkproof
from forkproof import _native


def test_a_lock_of_multiprocessing_is_no_hazard(stage: Stage) -> None:
    """Its other processes still own and release it."""
    context = multiprocessing.get_context("fork")
    gate = stage.gate()

    def body() -> None:
        with context.Lock(), context.RLock(), context.Semaphore(1), context.Condition():
            gate.wait()

    expect(stage.at(gate, body))


def test_a_file_that_is_open_is_no_hazard(stage: Stage, tmp_path: Any) -> None:
    gate = stage.gate()

    def body() -> None:
        with open(tmp_path / "x", "w") as text, open(tmp_path / "y", "wb") as binary:
            text.write("x")
            binary.write(b"x")
            gate.wait()

    expect(stage.at(gate, body))


def test_a_lock_in_a_variable_that_somebody_else_holds(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def body(mine: Any) -> None:
        taken = mine
        gate.wait()
        del taken

    with stage.held(lock):
        expect(stage.at(gate, body, lock))


def test_a_lock_that_was_given_back_inside_its_with(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def body() -> None:
        with lock:
            lock.release()
            gate.wait()
            lock.acquire()

    expect(stage.at(gate, body))


def test_a_lock_that_the_asking_thread_holds_is_no_hazard_to_it(stage: Stage) -> None:
    lock = threading.RLock()
    other = threading.Lock()
    gate = stage.gate()

    def body() -> None:
        with other:
            gate.wait()

    with lock:
        thread = stage.at(gate, body)
        expect(thread, holds(other))
        assert not [s for s in _native.look() if s[7] is lock]


def test_a_lock_that_before_hooks_take_is_no_hazard(stage: Stage) -> None:
    """concurrent.futures registers its lock's acquire as an at-fork hook: the forking thread will have it."""
    from concurrent.futures import thread as pools

    gate = stage.gate()

    def body() -> None:
        with pools._global_shutdown_lock:
            gate.wait()

    thread = stage.at(gate, body)
    assert [s[7] is pools._global_shutdown_lock for s in sightings(thread)] == [True]


def test_a_generator_that_has_not_begun_holds_nothing(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def gen() -> Any:
        with lock:
            yield 1

    def body() -> None:
        g = gen()
        gate.wait()
        g.close()
        next(g, None)

    with stage.held(lock):
        expect(stage.at(gate, body))


def test_a_thread_at_its_first_instruction(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def target() -> None:
        with lock:
            pass

    def watch(frame: Any, event: str, arg: object) -> Any:
        if event == "call" and frame.f_code is target.__code__:
            gate.wait()
        return watch

    def body() -> None:
        sys.setprofile(watch)
        target()
        sys.setprofile(None)

    expect(stage.at(gate, body))


def test_a_thread_at_its_last_instruction(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def target() -> None:
        with lock:
            pass

    def watch(frame: Any, event: str, arg: object) -> Any:
        if event == "return" and frame.f_code is target.__code__:
            gate.wait()
        return watch

    def body() -> None:
        sys.setprofile(watch)
        target()
        sys.setprofile(None)

    expect(stage.at(gate, body))


def test_every_line_and_opcode_of_a_function_is_read_right(stage: Stage) -> None:
    """A tracer stops at each instruction in turn: the lock is reported as long as it is locked.

    Before the instruction that takes it, it may be said to be acquired, and never to be held.
    """
    lock = threading.Lock()
    wrong: list[str] = []
    stops: list[Any] = []

    def target() -> int:
        x = 0
        with lock:
            for i in range(2):
                x += i
        lock.acquire()
        try:
            x += 1
        finally:
            x += 2
            lock.release()
        return x

    def watch(frame: Any, event: str, arg: object) -> Any:
        if frame.f_code is not target.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            stops.append((frame.f_lasti, lock.locked()))
            gates[0].wait()
        return watch

    gates = [stage.gate()]

    def body() -> None:
        # 3.12 tells of opcodes only if some frame asked before settrace().
        sys._getframe().f_trace_opcodes = True
        sys.settrace(watch)
        target()
        sys.settrace(None)

    thread = stage.start(body)
    checked = 0
    while True:

        def there() -> bool:
            return not thread.is_alive() or bool(select.select([gates[0]._ours], [], [], 0)[0])

        until(there)
        if not thread.is_alive():
            break
        at, locked = stops[-1]
        seen = [s for s in sightings(thread) if s[7] is lock]
        states = {s[2] for s in seen}
        if not (states & {0, 2} if locked else states <= {1}):
            wrong.append(f"{at}: locked={locked} seen={[(s[2], s[4]) for s in seen]}")
        checked += 1
        old = gates[0]
        gates[0] = stage.gate()
        old.open()
    assert checked > 40
    assert not wrong, " ".join(wrong)


def test_a_thread_without_a_python_frame(stage: Stage) -> None:
    gate = stage.gate()
    ident = _thread.start_new_thread(os.write, (gate.fd, FULL))
    gate.reached()
    assert [s for s in _native.look() if s[0] == ident] == []
    assert [h for h in forkproof.assess().hazards if h.thread and h.thread.ident == ident] == []


def test_a_thread_that_threading_does_not_know(stage: Stage) -> None:
    lock, gate = threading.Lock(), stage.gate()

    def body() -> None:
        with lock:
            os.write(gate.fd, FULL)

    ident = _thread.start_new_thread(body, ())
    gate.reached()
    found = [h for h in forkproof.assess().hazards if h.thread and h.thread.ident == ident]
    assert [(h.state, h.certainty, h.thread and h.thread.name) for h in found] == [
        ("holds", "certain", f"thread {ident}")
    ]
    gate.open()
    until(lambda: not lock.locked())


def test_deep_recursion(stage: Stage) -> None:
    outer, inner, gate = threading.Lock(), threading.Lock(), stage.gate()

    def descend(n: int) -> None:
        if n:
            return descend(n - 1)
        with inner:
            gate.wait()
        return None

    def body() -> None:
        with outer:
            descend(800)

    expect(stage.at(gate, body), holds(outer), holds(inner))


def test_a_lock_at_each_level_of_a_recursion_is_told_in_proportion_to_its_depth(stage: Stage) -> None:
    """And not to its square: each lock's hazard has the innermost of the stack."""
    told: dict[int, int] = {}
    for depth in (150, 300):
        gate = stage.gate()
        locks = [threading.Lock() for _ in range(depth)]

        def descend(n: int = 0) -> None:
            if n == len(locks):
                return gate.wait()
            with locks[n]:
                return descend(n + 1)

        thread = stage.at(gate, descend)
        hazards = [h for h in forkproof.assess().hazards if h.thread and h.thread.ident == thread.ident]
        assert len(hazards) == depth
        assert {h.held_at and h.held_at.function for h in hazards} == {"descend"}
        assert len({h.stack for h in hazards}) == 1
        told[depth] = sum(len(h.stack) for h in hazards)
        gate.open()
        until(lambda: not locks[0].locked())
    assert told[300] == 2 * told[150]


def test_several_hundred_threads_each_with_its_own_lock(stage: Stage) -> None:
    count = 300
    ours, theirs = os.pipe()
    locks = [threading.Lock() for _ in range(count)]
    arrived: list[int] = []

    def body(k: int) -> None:
        with locks[k]:
            arrived.append(k)
            os.read(ours, 1)

    threads = [stage.start(body, k) for k in range(count)]
    until(lambda: len(arrived) == count)
    seen = {s[0]: s for s in _native.look() if s[2] == 0}
    assert len(forkproof.assess().hazards) >= count
    for k, thread in enumerate(threads):
        assert thread.ident is not None
        assert seen[thread.ident][7] is locks[k]
    os.write(theirs, b"." * count)
    for thread in threads:
        thread.join()
    os.close(ours)
    os.close(theirs)
    assert [s for s in _native.look() if s[7] in locks] == []


def test_looking_again_and_again_while_threads_run_is_safe(stage: Stage) -> None:
    """Whatever they are at: no crash, no lock that is none, and nothing left when they have ended."""
    locks: list[Any] = [threading.Lock(), threading.RLock(), threading.Condition()]
    stop = False

    def body() -> None:
        while not stop:
            for lock in locks:
                with lock:
                    [x for x in (y for y in range(3))]
                lock.acquire()
                try:
                    str(x) if (x := 1) else None
                finally:
                    lock.release()

    threads = [stage.start(body) for _ in range(6)]
    known = {id(locks[0]), id(locks[1]), id(locks[2]._lock)}
    mine = {t.ident for t in threads}
    try:
        for _ in range(3000):
            for s in _native.look():
                assert s[0] not in mine or id(s[7]) in known
    finally:
        stop = True


def test_a_module_level_name_that_is_gone_is_not_claimed(stage: Stage) -> None:
    lock = threading.Lock()
    gate = stage.gate()
    space: dict[str, Any] = {"lock": lock, "gate": gate}
    exec("def body():\n    lock.acquire()\n    gate.wait()\n    lock.release()\n", space)
    thread = stage.at(gate, space["body"])
    expect(thread, holds(lock))
    del space["lock"]
    expect(thread)
    space["lock"] = lock
