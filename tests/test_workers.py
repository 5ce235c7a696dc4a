"""Threads that others rely on: that they are told once, put no fork at risk, and what the child mends of executors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import Run
from forking import program

from forkproof import catalogue, model
from forkproof.evidence import naming
from forkproof.evidence import workers as vanishing

POOL = """
from concurrent.futures import ThreadPoolExecutor, BrokenExecutor
pool = ThreadPoolExecutor(2, thread_name_prefix="jobs")
pool.submit(int).result()
"""

AT_WORK = """
gate = threading.Event()
begun = threading.Semaphore(0)
def job():
    begun.release()
    gate.wait()
    return "done in the parent"
running = [pool.submit(job) for _ in range(2)]
for _ in running:
    begun.acquire()
queued = [pool.submit(job) for _ in range(2)]
"""

ENDED = """
assert forked(child) == 0
gate.set()
assert [f.result() for f in running + queued] == ["done in the parent"] * 4
print("fine")
"""


def forks(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for line in lines:
        model.event_from_json(line)
    return [line for line in lines if line["event"] == "fork"]


def observed(body: str, run: Run, tmp_path: Path, policy: str = "observe") -> list[dict[str, Any]]:
    """What forks of the program tell, in order. It forks by `forked`."""
    file = tmp_path / "events.jsonl"
    run("-c", program(body, install=f"forkproof.install({policy!r}, events={str(file)!r})"))
    return forks(file)


def workers(fork: dict[str, Any]) -> list[dict[str, Any]]:
    return [hazard for hazard in fork["hazards"] if hazard["kind"] == "vanished-worker"]


# ----------------------------------------------------------------------------------------------------------------------
# Executors in a child


def test_a_child_runs_new_jobs_in_an_executor_that_lost_its_workers(run: Run) -> None:
    body = (
        POOL
        + """
def child():
    assert pool.submit(lambda: 2).result(timeout=10) == 2
    assert list(pool.map(abs, [-1, -2, -3], timeout=10)) == [1, 2, 3]
    pool.shutdown()
print(forked(child), pool.submit(lambda: 3).result(timeout=10))
"""
    )
    assert run("-c", program(body)).stdout == "0 3\n"


def test_without_repair_such_a_child_hangs(run: Run) -> None:
    """So the test above shows something."""
    body = POOL + "print(forked(lambda: pool.submit(int).result(), limit=1.5))"
    assert run("-c", program(body, install="forkproof.install(repair=False)")).stdout == "hung\n"


def test_jobs_of_the_parent_fail_in_the_child_and_say_why(run: Run) -> None:
    body = (
        POOL
        + AT_WORK
        + """
def child():
    for future, was in [*((f, "at work") for f in running), *((f, "queued") for f in queued)]:
        try:
            future.result(timeout=10)
        except BrokenExecutor as error:
            assert was in str(error) and str(os.getppid()) in str(error), error
        else:
            raise AssertionError("it has a result")
"""
        + ENDED
    )
    assert run("-c", program(body)).stdout == "fine\n"


def test_no_job_is_done_in_both_processes(run: Run, tmp_path: Path) -> None:
    body = (
        POOL
        + AT_WORK
        + f"""
def count():
    os.write(log, b"x")
log = os.open({str(tmp_path / "log")!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
queued += [pool.submit(count) for _ in range(5)]
def child():
    assert pool.submit(int).result(timeout=10) == 0
    pool.shutdown(wait=True)
assert forked(child) == 0
gate.set()
pool.shutdown(wait=True)
print(os.path.getsize({str(tmp_path / "log")!r}))
"""
    )
    assert run("-c", program(body)).stdout == "5\n"


def test_callbacks_of_the_parents_jobs_do_not_run_in_the_child(run: Run) -> None:
    body = (
        POOL
        + AT_WORK
        + """
called = []
for future in running + queued:
    future.add_done_callback(called.append)
def child():
    assert all(f.done() for f in running + queued)
    assert not called
"""
        + ENDED
    )
    assert run("-c", program(body)).stdout == "fine\n"


PROCESSES = """
import multiprocessing
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
pool.submit(int).result()
"""


def test_an_executor_of_the_parents_processes_refuses_work_in_the_child_and_says_why(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    body = (
        PROCESSES
        + """
gate, pen = multiprocessing.Pipe()
running = pool.submit(gate.recv)
running.add_done_callback(lambda future: os.write(1, b"called\\n"))
parent = os.getpid()
def child():
    for ask in lambda: pool.submit(int), lambda: list(pool.map(int, "1")), running.result:
        try:
            ask()
        except BrokenExecutor as error:
            assert str(parent) in str(error), error
        else:
            raise AssertionError("nothing was said")
    pool.shutdown()
assert forked(child) == 0
pen.send("done in the parent")
assert running.result() == "done in the parent" and pool.submit(abs, -1).result() == 1
"""
    )
    ran = run("-c", program(body, install=f"forkproof.install('wait', events={str(file)!r})"))
    assert ran.stdout == "called\n"  # once: in the parent
    born = [json.loads(line) for line in file.read_text("utf-8").splitlines() if '"born"' in line]
    words = (
        "manager of a ProcessPoolExecutor: the executor is broken here; 1 of the parent's jobs failed here"
    )
    assert any(words in line.get("repaired", ()) for line in born), born


def test_an_executor_of_processes_is_left_as_it_is_where_nothing_is_to_be_changed(run: Run) -> None:
    body = (
        PROCESSES
        + """
def child():
    assert pool._broken is False
assert forked(child) == 0
print("fine")
"""
    )
    for install in ("forkproof.install('observe')", "forkproof.install('wait', repair=False)"):
        assert run("-c", program(body, install=install)).stdout == "fine\n"


def test_a_job_that_forks_lives_on_in_the_child(run: Run) -> None:
    body = (
        POOL
        + """
def job():
    def child():
        assert pool.submit(lambda: 5).result(timeout=10) == 5
        assert threading.current_thread() in pool._threads
    return forked(child)
print(pool.submit(job).result(timeout=20), pool.submit(lambda: 6).result(timeout=10))
"""
    )
    assert run("-c", program(body)).stdout == "0 6\n"


def test_derived_executors_and_default_executors_of_loops_are_mended(run: Run) -> None:
    body = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
class Derived(ThreadPoolExecutor):
    pass
derived = Derived(1)
derived.submit(int).result()
loop = asyncio.new_event_loop()
loop.set_default_executor(ThreadPoolExecutor(1))
async def use():
    return await loop.run_in_executor(None, lambda: 7)
assert loop.run_until_complete(use()) == 7
def child():
    assert derived.submit(lambda: 1).result(timeout=10) == 1
    assert loop._default_executor.submit(lambda: 2).result(timeout=10) == 2
print(forked(child))
"""
    assert run("-c", program(body)).stdout == "0\n"


def test_an_executor_of_many_forks_is_mended_at_each(run: Run) -> None:
    body = (
        POOL
        + """
def child():
    assert pool.submit(lambda: 2).result(timeout=10) == 2
    assert forked(lambda: pool.submit(lambda: 3).result(timeout=10)) == 0, "grandchild"
print([forked(child) for _ in range(20)] == [0] * 20)
"""
    )
    assert run("-c", program(body), limit=60).stdout == "True\n"


def test_executors_at_work_while_the_process_forks(run: Run) -> None:
    body = """
from concurrent.futures import ThreadPoolExecutor, BrokenExecutor
pool = ThreadPoolExecutor(3)
stop = False
def feed():
    while not stop:
        for future in [pool.submit(abs, -1) for _ in range(5)]:
            assert future.result(timeout=20) == 1
feeders = [thread(feed) for _ in range(2)]
def child():
    assert pool.submit(lambda: 2).result(timeout=10) == 2
print([forked(child) for _ in range(100)] == [0] * 100)
stop = True
for t in feeders:
    t.join()
"""
    assert run("-c", program(body), limit=100).stdout == "True\n"


def test_a_child_that_never_uses_the_executor_ends_as_ever(run: Run) -> None:
    body = (
        POOL
        + AT_WORK
        + """
pid = os.fork()
if pid == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
gate.set()
"""
    )
    assert run("-c", program(body)).stdout == "7\n"


def test_nothing_that_vanished_workers_had_is_kept_alive(run: Run) -> None:
    """Of what they had in their variables a child has as many references as without Forkproof (CPython frees none)."""
    body = (
        POOL
        + """
class Thing:
    pass
thing = Thing()
gate = threading.Event()
begun = threading.Event()
def job(thing):
    begun.set()
    gate.wait()
future = pool.submit(job, thing)
begun.wait()
def child():
    print(sys.getrefcount(thing), sys.getrefcount(future), sys.getrefcount(pool), flush=True)
assert [forked(child) for _ in range(2)] == [0, 0]
gate.set()
"""
    )
    bare = run("-c", program(body, install="")).stdout
    for policy in ("observe", "wait"):
        assert run("-c", program(body, install=f"forkproof.install({policy!r})")).stdout == bare != ""


# ----------------------------------------------------------------------------------------------------------------------
# What is told


def test_an_idle_executor_is_told_once_and_puts_no_fork_at_risk(run: Run, tmp_path: Path) -> None:
    told = observed(POOL + "for _ in range(3): forked(int)", run, tmp_path)
    assert [len(workers(fork)) for fork in told] == [1, 0, 0]
    assert [fork["risk"] for fork in told] == ["none"] * 3
    (hazard,) = workers(told[0])
    assert hazard["certainty"] == "possible" and not hazard["cleared"]
    assert hazard["what"] == "worker of a ThreadPoolExecutor"
    assert hazard["thread"]["name"] == "jobs_0"
    assert any(frame["function"] == "_worker" for frame in hazard["stack"])


def test_each_executor_is_told_with_its_class_and_its_threads(run: Run, tmp_path: Path) -> None:
    body = """
from concurrent.futures import ThreadPoolExecutor
class Mine(ThreadPoolExecutor): pass
barrier = threading.Barrier(3)
a, b = ThreadPoolExecutor(2), Mine(1)
for future in [a.submit(barrier.wait), a.submit(barrier.wait), b.submit(barrier.wait)]:
    future.result()
forked(int)
"""
    (fork,) = observed(body, run, tmp_path)
    assert sorted(hazard["what"] for hazard in workers(fork)) == [
        "worker of a ThreadPoolExecutor (2 threads)",
        "worker of a ThreadPoolExecutor (of __main__.Mine)",
    ]


@pytest.mark.parametrize("end", ["pool.shutdown(wait=False)", "del pool"])
def test_an_executor_that_nobody_can_ask_is_not_told(end: str, run: Run, tmp_path: Path) -> None:
    body = (
        POOL
        + f"""
gate = threading.Event()
begun = threading.Event()
future = pool.submit(lambda: (begun.set(), gate.wait()))
begun.wait()
{end}
forked(int)
gate.set()
"""
    )
    (fork,) = observed(body, run, tmp_path)
    assert not fork["hazards"]


def test_idle_workers_do_not_make_a_fork_slow_or_refused_or_warned_of(run: Run) -> None:
    body = (
        POOL
        + """
forked(int)
start = time.monotonic()
for _ in range(20): assert forked(int) == 0
assert time.monotonic() - start < 10
print(forkproof.assess().risk, [h.kind for h in forkproof.assess().hazards])
"""
    )
    for policy in ("wait", "raise"):
        ended = run("-W", "error", "-c", program(body, install=f"forkproof.install({policy!r}, wait=5)"))
        assert (ended.stdout, ended.stderr) == ("none ['vanished-worker']\n", "")


STANDARD = {
    "consumer of a queue.Queue": """
import queue
q = queue.Queue()
def consume():
    while True:
        q.get()
        q.task_done()
thread(consume)
""",
    "consumer of a queue.SimpleQueue": """
import queue
q = queue.SimpleQueue()
def consume():
    while True: q.get()
thread(consume)
""",
    "party of a threading.Barrier": """
barrier = threading.Barrier(2)
def step():
    while True: barrier.wait()
thread(step)
""",
    "logging.handlers.QueueListener": """
import logging.handlers, queue
listener = logging.handlers.QueueListener(queue.Queue())
listener.start()
""",
    "threading.Timer": "t = threading.Timer(100, int); t.daemon = True; t.start()\n",
    "feeder of a multiprocessing.Queue": """
import multiprocessing
q = multiprocessing.Queue()
q.put(1)
q.get()
""",
    "multiprocessing.Pool": """
from multiprocessing.pool import ThreadPool
pool = ThreadPool(1)
pool.apply(int)
""",
    "asyncio event loop": """
import asyncio
loop = asyncio.new_event_loop()
thread(loop.run_forever)
asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
""",
    "socketserver": """
import socketserver
server = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
thread(server.serve_forever)
""",
}


@pytest.mark.parametrize("what", STANDARD)
def test_workers_of_the_standard_library_are_told(what: str, run: Run, tmp_path: Path) -> None:
    wait = f"until(lambda: any({what!r} in h.what for h in forkproof.assess().hazards))\n"
    told = observed(STANDARD[what] + wait + "for _ in range(2): forked(int)\nos._exit(0)", run, tmp_path)
    assert [hazard["what"].partition(" (")[0] for hazard in workers(told[0])][0] == what
    assert all(h["what"].startswith(what) for h in workers(told[0]))
    assert not workers(told[1])
    assert {fork["risk"] for fork in told} == {"none"}


def test_consumers_are_told_for_each_function_that_consumes(run: Run, tmp_path: Path) -> None:
    body = """
import queue
def one(q):
    while True: q.get()
def two(q):
    while True: q.get()
def waiting(n): return lambda: sum("consumer" in h.what for h in forkproof.assess().hazards) == n
thread(one, queue.Queue()); until(waiting(1)); forked(int)
thread(two, queue.Queue()); until(waiting(2)); forked(int)
thread(one, queue.Queue()); until(waiting(3)); forked(int)
def three(q):
    while True: q.get()
thread(three, queue.SimpleQueue()); until(waiting(4)); forked(int)
thread(queue.SimpleQueue().get); until(waiting(5)); forked(int)
thread(queue.SimpleQueue().get); until(waiting(6)); forked(int)
"""
    assert [len(workers(fork)) for fork in observed(body, run, tmp_path)] == [1, 1, 0, 1, 1, 0]


def test_what_waits_in_the_queue_is_counted(run: Run, tmp_path: Path) -> None:
    body = POOL + AT_WORK + "forked(int); gate.set()"
    ((hazard,),) = [workers(fork) for fork in observed(body, run, tmp_path)]
    assert hazard["what"] == "worker of a ThreadPoolExecutor (2 threads, 2 waiting in its queue)"


# ----------------------------------------------------------------------------------------------------------------------
# What a child knows of them


@pytest.mark.parametrize("policy", ["observe", "wait"])
def test_a_child_knows_whose_future_it_waits_for(policy: str, run: Run) -> None:
    body = (
        POOL
        + AT_WORK
        + """
from forkproof.evidence import workers
def child():
    mended = forkproof.guard._settings.policy != "observe"
    new = pool.submit(int)
    for thing in [pool, new, *running, *queued]:
        found = workers.explains(thing)
        assert (found is None) == mended, thing
        if found: assert found.thread.startswith("jobs_") and "ThreadPoolExecutor" in found.hazard()["what"]
    from concurrent.futures import Future
    assert workers.explains(Future()) is None and workers.explains(None) is None
"""
        + ENDED
    )
    assert run("-c", program(body, install=f"forkproof.install({policy!r})")).stdout == "fine\n"


def test_a_child_knows_the_consumer_of_its_queue(run: Run) -> None:
    body = (
        STANDARD["consumer of a queue.Queue"]
        + """
from forkproof.evidence import workers
until(lambda: forkproof.assess().hazards)
def child():
    assert workers.explains(q).worker.what == "consumer of a queue.Queue"
    assert workers.explains(queue.Queue()) is None
print(forked(child))
"""
    )
    assert run("-c", program(body, install="forkproof.install('observe')")).stdout == "0\n"


# ----------------------------------------------------------------------------------------------------------------------
# The catalogue


def test_each_worker_says_how_it_is_known_and_what_to_do() -> None:
    for worker in catalogue.all_workers():
        assert (
            worker.what
            and (worker.run or worker.methods)
            and worker.child
            and worker.advice
            and worker.source
        )
        assert all(name.count(":") == 1 for name in worker.run)
        assert worker.mended is None or worker.distribution


def test_the_kinds_that_count_are_the_same_everywhere() -> None:
    assert naming.NEEDED_ONLY == model.NEEDED_ONLY


def _forks_and_mends() -> FrameType:
    return sys._getframe()


def test_a_librarys_own_fork_that_puts_it_right_is_known_by_where_the_fork_is_made() -> None:
    """gevent's makes its pool anew; the same threads are a hazard of a plain os.fork()."""
    entry = {"what": "it", "run": [], "child": "-", "source": "-", "advice": "-"}
    worker = catalogue.Worker({**entry, "mended_by": ["test_workers:_forks_and_mends"]})
    assert vanishing._is_mended(worker, _forks_and_mends())
    assert not vanishing._is_mended(worker, sys._getframe())
    assert not vanishing._is_mended(worker, None)
