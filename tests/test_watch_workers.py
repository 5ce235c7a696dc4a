"""A child that waits for what a thread was to do that it does not have: reported. One that waits for a thread of its own: not.

Each table's children are forked from one program that has every sort of worker, and run side by side.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run
from watching import LONG_ENOUGH, SIDE_BY_SIDE, UNTIL_TOLD, children_of, watched

WORKERS = """
import asyncio, multiprocessing, queue, socketserver, weakref
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from multiprocessing.pool import ThreadPool

full, roomy = ThreadPoolExecutor(1), ThreadPoolExecutor(4)
full.submit(int).result()
barrier = threading.Barrier(3)
def step():
    while True: barrier.wait()
thread(step)
simple = queue.SimpleQueue()
def do(get):
    while True: get()()
thread(do, simple.get)
roomy.submit(int).result()
gate, begun = threading.Event(), threading.Event()
busy = ThreadPoolExecutor(1)
at_work = busy.submit(lambda: (begun.set(), gate.wait()))
begun.wait()
queued = busy.submit(int)

def consume(q, begun=None):
    while True:
        item = q.get()
        if begun: begun.set(); gate.wait()
        q.task_done()
served, bounded, drained = queue.Queue(), queue.Queue(1), queue.Queue()
for q in served, bounded, drained: thread(consume, q)
in_hand, taken = queue.Queue(), threading.Event()
for _ in range(2): thread(consume, in_hand, taken)
in_hand.put(1)
taken.wait()

loop = asyncio.new_event_loop()
thread(loop.run_forever)
answer = lambda: asyncio.sleep(0)
async def gives(executor): await asyncio.get_running_loop().run_in_executor(executor, int)
async def waits(): await asyncio.get_running_loop().create_future()
asyncio.run_coroutine_threadsafe(answer(), loop).result()
never = asyncio.run_coroutine_threadsafe(asyncio.sleep(3600), loop)
pool = ThreadPool(1)
pool.apply(int)
processes = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
processes.submit(int).result()
server = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
thread(server.serve_forever, 0.01)
mended = ThreadPoolExecutor(1)
rung = threading.Event()
timer = threading.Timer(3600, rung.set)
timer.daemon = True
timer.start()

def wanted():
    return sorted(h.what.partition(" (")[0] for h in forkproof.assess().hazards)
until(lambda: sum("consumer" in what for what in wanted()) == 5 and "socketserver" in wanted())

def sleeper():
    "So that the world is not closed: it may do anything, any time."
    thread(time.sleep, 3600)
"""

HANGS = {
    "the result of a job for an executor that starts no more threads": (
        "sleeper(); full.submit(int).result()",
        "proven|record|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "its exception, with a time-out": (
        "sleeper(); full.submit(int).exception(timeout=3600)",
        "proven|record|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "a job that was at work at the fork": (
        "sleeper(); at_work.result()",
        "proven|record|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "a job that was queued at the fork": (
        "sleeper(); queued.result()",
        "proven|record|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "a job for an executor that may start a thread for the next one": (
        "sleeper(); roomy.submit(int).result()",
        "likely|None|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "the same, and nobody is there to give it the next": (
        "roomy.submit(int).result()",
        "proven|closed-world|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "one of several results": (
        "sleeper(); list(as_completed([full.submit(int), queued]))",
        "proven|record|the results of Futures|worker of a ThreadPoolExecutor",
    ),
    "all of several results": (
        "sleeper(); wait([full.submit(int), queued])",
        "proven|record|the results of Futures|worker of a ThreadPoolExecutor",
    ),
    "in another thread than the main one": (
        "thread(full.submit(int).result); time.sleep(3600)",
        "proven|record|the result of a Future|worker of a ThreadPoolExecutor",
    ),
    "the items of a queue to be done": (
        "served.put(1); served.join()",
        "proven|closed-world|the items of a queue.Queue to be done|consumer of a queue.Queue",
    ),
    "the same, while another thread lives": (
        "sleeper(); served.put(1); served.join()",
        "likely|None|the items of a queue.Queue to be done|consumer of a queue.Queue",
    ),
    "an item that one of its vanished consumers had in hand": (
        "sleeper(); in_hand.join()",
        "likely|None|the items of a queue.Queue to be done|consumer of a queue.Queue",
    ),
    "room in a queue": (
        "bounded.put(1); bounded.put(2)",
        "proven|closed-world|room in a queue.Queue|consumer of a queue.Queue",
    ),
    "room in a queue for which others wait as well": (
        "bounded.put(1); sleeper(); thread(bounded.put, 2); bounded.put(3)",
        "likely|None|room in a queue.Queue|consumer of a queue.Queue",
    ),
    "a coroutine for a loop": (
        "sleeper(); asyncio.run_coroutine_threadsafe(answer(), loop).result()",
        "proven|record|the result of a Future|asyncio event loop",
    ),
    "a coroutine that the loop was running at the fork": (
        "sleeper(); never.result()",
        "proven|record|the result of a Future|asyncio event loop",
    ),
    "something that a callback of the loop would set": (
        "sleeper(); e = threading.Event(); loop.call_soon_threadsafe(lambda: e.set()); e.wait()",
        "likely|None|a threading.Event to be set|asyncio event loop",
    ),
    "something that a consumer of a simple queue would set": (
        "sleeper(); e = threading.Event(); simple.put(e.set); e.wait()",
        "likely|None|a threading.Event to be set|consumer of a queue.SimpleQueue",
    ),
    "something that an attribute of the job would set": (
        "sleeper(); e = threading.Event(); job = lambda: job.then(); job.then = e.set; simple.put(job); e.wait()",
        "likely|None|a threading.Event to be set|consumer of a queue.SimpleQueue",
    ),
    "the same of a consumer, and there is no other thread": (
        "e = threading.Event(); simple.put(e.set); e.wait()",
        "proven|closed-world|a threading.Event to be set|consumer of a queue.SimpleQueue",
    ),
    "the parties of a barrier": (
        "barrier.wait()",
        "proven|closed-world|the other threads at a threading.Barrier|party of a threading.Barrier",
    ),
    "what a timer would have done": (
        "sleeper(); rung.wait()",
        "likely|None|a threading.Event to be set|threading.Timer",
    ),
    "the end of a timer": (
        "sleeper(); timer.finished.wait()",
        "likely|None|a threading.Event to be set|threading.Timer",
    ),
    "an item that a job would put": (
        "sleeper(); q = queue.SimpleQueue(); full.submit(q.put, 1); q.get()",
        "likely|None|an item of a queue.SimpleQueue|worker of a ThreadPoolExecutor",
    ),
    "an item for which a job has a weak reference": (
        "sleeper(); q = queue.Queue(); full.submit(lambda r: r().put(1), weakref.ref(q)); q.get()",
        "likely|None|an item of a queue.Queue|worker of a ThreadPoolExecutor",
    ),
    "a job of a loop of its own": (
        "sleeper(); asyncio.run(gives(full))",
        "likely|None|an event loop's next event|worker of a ThreadPoolExecutor",
    ),
    "a result of a pool": (
        "sleeper(); pool.apply(int)",
        "proven|record|a result of a multiprocessing.Pool|multiprocessing.Pool",
    ),
    "the next result of a pool": (
        "sleeper(); next(pool.imap(abs, [1]))",
        "proven|record|a result of a multiprocessing.Pool|multiprocessing.Pool",
    ),
    "a job for other processes": (
        "sleeper(); processes.submit(int).result()",
        "proven|record|the result of a Future|manager of a ProcessPoolExecutor",
    ),
    "the end of a server": (
        "sleeper(); server.shutdown()",
        "likely|None|the loop of a socketserver to end|socketserver",
    ),
}

HEALTHY = {
    "it never asks": "time.sleep(3600)",
    "a future that a thread of its own completes": """
        future = Future()
        def complete():
            time.sleep(3600)
            future.set_result(1)
        thread(complete)
        future.result()
    """,
    "an executor of its own that is at work": "ThreadPoolExecutor(1).submit(time.sleep, 3600).result()",
    "an inherited executor that had no thread yet": "mended.submit(time.sleep, 3600).result()",
    "an inherited executor that has started a thread since": """
        waiting = roomy.submit(time.sleep, 3600)  # for the idle worker that is counted still
        roomy.submit(int)  # starts one, which begins with the first
        waiting.result()
    """,
    "a queue of its own": """
        q = queue.Queue()
        def slow():
            q.get()
            time.sleep(3600)
        thread(slow)
        q.put(1)
        q.join()
    """,
    "a consumer of its own that has the item in hand": """
        got = threading.Event()
        def use(item): got.set(); time.sleep(3600)
        def work(get): use(get())
        drained.put(1)  # first: to wake who waits is under observe to wake one that is not there
        thread(work, drained.get)
        got.wait()
        drained.join()
    """,
    "a consumer of its own that comes now and then": """
        def poll(q):
            while True:
                time.sleep(3600)
                q.get_nowait()
                q.task_done()
        thread(poll, served)
        served.put(1)
        served.join()
    """,
    "another queue that has the same items": """
        q = queue.Queue()
        thread(lambda: (time.sleep(3600), q.get(), q.task_done()))
        item = object()
        served.put(item)
        q.put(item)
        q.join()
    """,
    "a loop of its own": """
        other = asyncio.new_event_loop()
        thread(other.run_forever)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(3600), other).result()
    """,
    "a loop of its own that is idle, with a job elsewhere": "full.submit(int); asyncio.run(waits())",
    "an event that nothing of the vanished is to set": """
        e = threading.Event()
        full.submit(int)
        thread(lambda: (time.sleep(3600), e.set()))
        e.wait()
    """,
    "an event that a thread of its own sets as well": """
        e = threading.Event()
        full.submit(lambda: e.set())
        thread(lambda: (time.sleep(3600), e.set()))
        e.wait()
    """,
    "a job behind another, in a queue that a thread of its own serves": """
        e, begun = threading.Event(), threading.Event()
        thread(do, simple.get)
        simple.put(lambda: (begun.set(), time.sleep(3600)))
        begun.wait()
        simple.put(e.set)
        e.wait()
    """,
    "what a timer of its own does as well": """
        t = threading.Timer(3600, rung.set)
        t.daemon = True
        t.start()
        rung.wait()
    """,
    "a pool of its own": "ThreadPool(1).apply(time.sleep, (3600,))",
    "the server, which it serves itself": """
        begun, stop = threading.Event(), threading.Event()
        def handle(*_): begun.set(); stop.wait(3600)
        server.process_request = handle
        thread(server.serve_forever, 0.01)
        import socket
        client = socket.create_connection(server.server_address)
        begun.wait()
        server.shutdown()
    """,
    "one of two results is on its way": """
        mine = ThreadPoolExecutor(1).submit(time.sleep, 3600)
        next(as_completed([full.submit(int), mine]))
    """,
    "an idle worker": "thread(queue.Queue().get); time.sleep(3600)",
}


def test_who_waits_for_what_a_vanished_worker_was_to_do_is_reported(run: Run, tmp_path: Path) -> None:
    table = {name: body for name, (body, _) in HANGS.items()}
    ended = run(
        "-c", watched(tmp_path / "events", SIDE_BY_SIDE, WORKERS, children_of(table), UNTIL_TOLD), limit=100
    )
    assert ended.status == 0, ended.stderr
    told = {
        name: "|".join(
            (
                event["verdict"],
                str(event["proof"]),
                event["waits_for"]["what"],
                event["hazard"]["what"].partition(" (")[0],
            )
        )
        for name, event in json.loads(ended.stdout).items()
    }
    assert told == {name: expected for name, (_, expected) in HANGS.items()}


def test_who_waits_for_a_living_thread_is_left_in_peace(run: Run, tmp_path: Path) -> None:
    """All of them are watched, for four times hang_after."""
    ended = run(
        "-c",
        watched(tmp_path / "events", SIDE_BY_SIDE, WORKERS, children_of(HEALTHY), LONG_ENOUGH),
        limit=100,
    )
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout) == dict.fromkeys(HEALTHY)


# ----------------------------------------------------------------------------------------------------------------------
# Who is watched, and what is said

POOL = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(int).result()
"""


def test_a_child_of_the_child_is_watched_for_it_as_well(run: Run, tmp_path: Path) -> None:
    body = """
    def child():
        pid = os.fork()
        if pid == 0:
            thread(time.sleep, 3600)
            pool.submit(int).result()
        os.waitpid(pid, 0)
    pid = child_of(child)
    until(lambda: events("hang"), 20)
    end(pid)
    (event,) = events("hang")
    assert event["parent"] == os.getpid() and event["pid"] != pid
    told(event)
    leave()
    """
    ended = run("-c", watched(tmp_path / "events", POOL, body))
    assert ended.stdout.splitlines() == [
        "MainThread|proven|record|vanished-worker",
        "ThreadPoolExecutor-0_0|worker of a ThreadPoolExecutor",
    ], ended.stdout + ended.stderr


def test_who_looks_now_and_then_for_what_a_vanished_worker_was_to_do_is_reported(
    run: Run, tmp_path: Path
) -> None:
    """As joblib does, in a loop with time.sleep()."""
    pytest.importorskip("joblib")
    body = """
    from joblib import Parallel, delayed
    parallel = Parallel(n_jobs=2, backend="threading").__enter__()
    parallel(delayed(int)() for _ in range(2))
    pid = child_of(lambda: parallel(delayed(int)() for _ in range(2)))
    until(lambda: events("hang"), 20)
    end(pid)
    (event,) = events("hang")
    print(event["waits_for"]["what"], event["verdict"], event["hazard"]["what"], sep="|")
    leave()
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout == "a result of joblib's Parallel|likely|multiprocessing.Pool\n", ended.stderr


LEFT = {
    "threads that nobody relies on": "thread(threading.Event().wait)",
    "an executor that is mended": POOL,
}


def test_a_child_that_misses_nothing_is_not_watched(run: Run, tmp_path: Path) -> None:
    """Nor is there a second thread in it."""
    body = """
    def threads():
        print(len(os.listdir("/proc/self/task")), flush=True)
    assert os.waitpid(child_of(threads), 0)[1] == 0
    import queue
    q = queue.Queue()
    thread(q.get)
    until(lambda: any("consumer" in hazard.what for hazard in forkproof.assess().hazards))
    assert os.waitpid(child_of(threads), 0)[1] == 0
    leave()
    """
    options = "policy='wait', hang_after=0.3"
    ended = run("-c", watched(tmp_path / "events", *LEFT.values(), body, options=options))
    assert ended.stdout == "1\n2\n", ended.stderr


def test_without_an_events_file_it_is_told_on_stderr(run: Run, tmp_path: Path) -> None:
    body = """
    forkproof.install(policy="observe", warn=False, hang_after=0.3, on_hang="kill")
    os.waitpid(child_of(lambda: pool.submit(int).result()), 0)
    """
    ended = run("-c", watched(tmp_path / "events", POOL, body))
    (line,) = [line for line in ended.stderr.splitlines() if "forkproof" in line]
    assert "MainThread' has waited" in line and "for the result of a Future; thread " in line
    assert "'ThreadPoolExecutor-0_0' (worker of a ThreadPoolExecutor) stayed behind when process" in line
    assert "[proven by record]" in line


def test_what_stayed_behind_is_in_the_record_of_the_fork(run: Run, tmp_path: Path) -> None:
    """Which had no risk: a reader from outside finds it there."""
    body = """
    from forkproof.doctor import record
    from forkproof.doctor.process import Process
    pid = child_of(lambda: time.sleep(3600))
    until(lambda: any(event["pid"] == pid for event in events("born")))
    with Process(pid) as process:
        found = record.find(process.regions(), process.read)
    end(pid)
    assert found.fork.risk == "none" and found.fork.child == pid and found.addresses == ()
    print([(hazard.kind, hazard.what) for hazard in found.fork.hazards])
    """
    ended = run("-c", watched(tmp_path / "events", POOL, body))
    assert ended.stdout == "[('vanished-worker', 'worker of a ThreadPoolExecutor')]\n", ended.stderr
