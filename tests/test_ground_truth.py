"""Random programs: what is said of each thread is what it has. `tools/ground_truth.py` tries thousands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import truth
from conftest import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

few = settings(
    max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@few
@given(truth.programs(), truth.programs())
def test_what_is_said_of_running_threads_is_the_truth(one: str, two: str) -> None:
    truth.running([one, two], 25)


@few
@given(truth.programs(), st.integers(0, 6))
def test_a_thread_that_waits_for_a_lock_is_said_to(source: str, which: int) -> None:
    truth.blocking([source], which, 2)


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="from 3.12 on a fork stops threads where the interpreter may switch them",
)
@pytest.mark.parametrize("first", range(0, 80, 20))
def test_what_is_said_of_a_thread_that_a_fork_has_stopped_at_a_line_is_the_truth(first: int) -> None:
    for seed in range(first, first + 20):
        truth.stepping(truth.random_program(seed), seed, lines=True)


@pytest.mark.parametrize("policy", ["observe", "wait"])
def test_at_a_fork_the_child_finds_what_the_record_says(run: Run, policy: str) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import forkproof, truth
forkproof.install(policy={policy!r}, wait=5, warn=False)
for seed in range(12):
    truth.forking([truth.random_program(seed), truth.random_program(seed + 1000)])
"""
    ended = run("-W", "ignore", "-c", code, limit=120)
    assert ended.status == 0, ended.stderr[-4000:]


# What random programs have shown, each by the smallest one.
FOUND = {
    "a loop goes back, inside a with": """
        with a:
            for i in (1, 2, 3):
                if i: continue
    """,
    "a try/finally in an except that goes on": """
        try:
            try:
                a.acquire()
                raise Boom
            finally:
                a.release()
        except Boom:
            sleep(0)
        sleep(0)
    """,
    "an attempt that is asked about": """
        got = a.acquire(timeout=9)
        try:
            sleep(0)
        finally:
            if got: a.release()
        sleep(0)
    """,
    "a generator inside a map inside a list": "x = list(map(nop, trying(a)))",
    "a manager's generator that has just been entered": "with around(a): sleep(0)",
    "a base class's methods": "with Outer(a): sleep(0)",
    "a semaphore behind a manager": """
        with Careful(s):
            sleep(0)
    """,
    "release is handed to an ExitStack": """
        with ExitStack() as stack:
            a.acquire()
            stack.callback(a.release)
            stack.enter_context(Deeper(r))
            sleep(0)
    """,
    "an asynchronous manager of a generator": """
        async def co():
            async with slowly(a), AsyncGuard(b):
                await turn()
        drive(co())
    """,
    "a lock in a class body": """
        class C:
            a.acquire()
            sleep(0)
            a.release()
    """,
    "a condition over a Lock lets go": """
        with c:
            c.wait(0.0001)
    """,
    "many locks in one function": "\n".join(
        f"        {k}.acquire()\n        try: sleep(0)\n        finally: {k}.release()" for k in truth.LOCKS
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_random_programs_have_shown(name: str) -> None:
    truth.running([truth.as_program(FOUND[name])], 150)
