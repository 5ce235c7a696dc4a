"""Locks that are held though no frame shows it: taken in a function that has returned since, or by compiled code."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from forking import OBSERVE, WAIT, forks, program, succeeds

# A thread that has taken `lock` by TAKE and goes on with what no frame of it explains, until told; then gives it back.
HOLDER = """
    import functools, operator, weakref
    taken, done = threading.Event(), threading.Event()
    class Session:
        shared = threading.RLock()
        def __init__(self):
            self._lock = threading.RLock()
    session, LOCK = Session(), threading.RLock()
    def hold():
        TAKE
        taken.set()
        done.wait()
        GIVE
        time.sleep(60)
    holder = threading.Thread(target=hold, name="holder", daemon=True)
    holder.start()
    taken.wait()
"""
WAYS = {
    "an attribute": (
        "list(map(operator.methodcaller('acquire'), [session._lock]))", "session._lock.release()", "session._lock",
        "_lock of __main__.Session",
    ),
    "map": ("list(map(operator.methodcaller('acquire'), [LOCK]))", "LOCK.release()", "LOCK", "LOCK of __main__"),
    "partial": (
        "list(map(functools.partial(threading.RLock().__class__.acquire, LOCK), [True]))",
        "LOCK.release()", "LOCK", "LOCK of __main__",
    ),
    "of a class": (
        "list(map(operator.methodcaller('acquire'), [Session.shared]))", "Session.shared.release()", "Session.shared",
        "shared of __main__.Session",
    ),
}  # fmt: skip
ways = pytest.mark.parametrize("way", WAYS)


def holder(way: str) -> str:
    take, give, _, _ = WAYS[way]
    return HOLDER.replace("TAKE", take).replace("GIVE", give)


@ways
def test_its_holder_and_its_name_are_told(run: Run, tmp_path: Path, way: str) -> None:
    body = holder(way) + "    assert forked(lambda: None) == 0\n    os._exit(0)\n"
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    (hazard,) = fork["hazards"]
    assert (hazard["kind"], hazard["certainty"], hazard["state"]) == ("held-lock", "certain", "holds")
    assert hazard["what"] == WAYS[way][3]
    assert hazard["thread"]["name"] == "holder"
    assert [frame["function"] for frame in hazard["stack"]].count("hold") == 1
    assert "held_at" not in hazard


@ways
def test_it_is_waited_for(run: Run, tmp_path: Path, way: str) -> None:
    body = (
        holder(way)
        + f"""
    threading.Timer(0.1, done.set).start()
    assert forked(lambda: must_be_free({WAYS[way][2]})) == 0
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=WAIT), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    assert (fork["outcome"], fork["risk"]) == ("waited", "none")
    # The timer, which may not have come to its end yet, is a worker.
    assert [hazard["cleared"] for hazard in fork["hazards"] if hazard["kind"] == "held-lock"] == [True]


@ways
def test_one_that_does_not_come_is_reset_in_the_child(run: Run, tmp_path: Path, way: str) -> None:
    body = (
        holder(way)
        + f"""
    assert forked(lambda: must_be_free({WAYS[way][2]})) == 0
    assert not {WAYS[way][2]}.acquire(blocking=False)
    os._exit(0)
    """
    )
    install = "forkproof.install(wait=0.05, events='events.jsonl', warn=False)"
    succeeds(run("-c", program(body, install=install), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    assert (fork["outcome"], fork["risk"], fork["repaired"]) == ("gave-up", "certain", [WAYS[way][3]])


def test_once_found_it_is_looked_at_before_every_fork(run: Run, tmp_path: Path) -> None:
    """A search of the heap is not due again so soon; the lock is held only now and then."""
    body = (
        holder("an attribute")
        + """
    outcomes = []
    for _ in range(3):
        assert forked(lambda: None) == 0
    done.set()
    until(lambda: "unlocked" in repr(session._lock))
    assert forked(lambda: None) == 0
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    assert [fork["risk"] for fork in forks(tmp_path)] == ["certain"] * 3 + ["none"]


def test_a_lock_that_has_gone_is_forgotten(run: Run, tmp_path: Path) -> None:
    body = (
        holder("an attribute")
        + """
    assert forked(lambda: None) == 0
    gone = weakref.ref(session._lock)
    session._lock = None
    assert forked(lambda: None) == 0
    assert gone() is None
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    assert [len(fork["hazards"]) for fork in forks(tmp_path)] == [1, 0]


SILENT = {
    "the forking thread's own": "begin()",
    "a thread's that has ended": "t = thread(begin); t.join()",
    "a Lock that is a signal": "signal = threading.Lock(); thread(signal.acquire).join()",
    "a Lock in a function that has returned": """
    lock, there = threading.Lock(), threading.Event()
    def take(): lock.acquire()
    def other():
        take()
        there.set()
        time.sleep(60)
    thread(other)
    there.wait()""",
    "declared safe": """
    there = threading.Event()
    def other():
        begin()
        there.set()
        time.sleep(60)
    forkproof.declare_safe(LOCK)
    thread(other)
    there.wait()""",
    "logging's, which resets it": """
    import logging
    handler, there = logging.StreamHandler(), threading.Event()
    def take(): handler.lock.acquire()
    def other():
        take()
        there.set()
        time.sleep(60)
    thread(other)
    there.wait()""",
    "its class resets it": """
    there = threading.Event()
    class Careful:
        def __init__(self):
            self.lock = threading.RLock()
            os.register_at_fork(after_in_child=self.renew)
        def renew(self):
            self.lock = threading.RLock()
        def begin(self):
            self.lock.acquire()
    careful = Careful()
    def other():
        careful.begin()
        there.set()
        time.sleep(60)
    thread(other)
    there.wait()""",
    "pools, queues, timers and events at rest": """
    import concurrent.futures, queue, asyncio, multiprocessing, logging.handlers
    pool = concurrent.futures.ThreadPoolExecutor(3)
    list(pool.map(abs, range(9)))
    q, e, c, b = queue.Queue(), threading.Event(), threading.Condition(), threading.Barrier(2)
    def waits():
        with c:
            c.wait()
    for f in (q.get, e.wait, waits, b.wait):
        thread(f)
    threading.Timer(60, print).start()
    listener = logging.handlers.QueueListener(queue.Queue()); listener.start()
    loop = asyncio.new_event_loop(); thread(loop.run_forever)
    time.sleep(0.3)""",
}


@pytest.mark.parametrize("policy", ["observe", "wait"])
@pytest.mark.parametrize("case", SILENT)
def test_what_is_no_hazard_is_not_spoken_about(run: Run, tmp_path: Path, case: str, policy: str) -> None:
    body = f"""
    LOCK = threading.RLock()
    def begin():
        LOCK.acquire()
    {SILENT[case].strip()}
    assert forkproof.assess().risk == "none", forkproof.assess()
    assert forked(lambda: None) == 0
    os._exit(0)
    """
    install = f"forkproof.install({policy!r}, events='events.jsonl', warn=False)"
    succeeds(run("-c", program(body, install=install), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    # What a library mends is seen and passed over; it is no hazard of the fork's. Threads that others rely on are another matter.
    held = [hazard for hazard in fork["hazards"] if hazard["kind"] != "vanished-worker"]
    assert (fork["risk"], held) == ("none", [])


def test_in_a_child_an_ident_may_be_anothers(run: Run, tmp_path: Path) -> None:
    """Idents come back: that a thread of the child's has it is only possible there."""
    body = (
        holder("map")
        + """
    def child():
        there = threading.Event()
        threads = [thread(lambda: (there.wait(), time.sleep(60))) for _ in range(3)]
        for hazard in forkproof.assess().hazards:
            assert hazard.certainty == "possible", hazard
        mine = threading.RLock()
        def take(): mine.acquire()
        thread(lambda: (take(), there.set(), time.sleep(60)))
        there.wait()
        def others(): return [h for h in forkproof.assess().hazards if "LOCK" not in h.what]
        until(lambda: len(others()) == 1)     # the threads that waited for the event have woken, and let go of its lock
        (hazard,) = others()
        assert hazard.certainty == "possible", hazard
    assert forked(child) == 0
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))


def test_it_is_found_in_a_frozen_heap(run: Run) -> None:
    body = (
        "    import gc\n"
        + holder("an attribute")
        + """
    gc.freeze()
    print([(hazard.kind, hazard.thread.name) for hazard in forkproof.assess().hazards], flush=True)
    os._exit(0)
    """
    )
    assert run("-c", program(body, install="")).stdout == "[('held-lock', 'holder')]\n"


@pytest.mark.parametrize("began", ["before", "after"])
def test_one_that_is_taken_after_many_searches_in_vain_is_found(run: Run, tmp_path: Path, began: str) -> None:
    """They are done less often then, but do not end; `began`: the thread that takes it, before or after them."""
    body = f"""
    lock, go, there = threading.RLock(), threading.Event(), threading.Event()
    def take(): lock.acquire()
    def other():
        go.wait()
        take()
        there.set()
        time.sleep(60)
    thread(threading.Event().wait)
    if {began!r} == "before": thread(other)
    for _ in range(100): # a search of so small a heap is due again after some 30 ms
        time.sleep(0.03)
        assert forked(lambda: None) == 0
    if {began!r} == "after": thread(other)
    go.set()
    there.wait()
    for _ in range(60):
        time.sleep(0.5)
        assert forked(lambda: None) == 0
        if '"certain"' in open('events.jsonl').read():
            break
    os._exit(0)
    """
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path, limit=120))
    risks = [fork["risk"] for fork in forks(tmp_path)]
    assert (risks[0], risks[99], risks[-1]) == ("none", "none", "certain")


def test_the_heap_is_not_searched_at_every_fork(run: Run, tmp_path: Path) -> None:
    """With half a million objects a search takes longer than a look by far: a lock taken after the first one is not found by
    forks that follow at once."""
    body = """
    lock, go, there = threading.RLock(), threading.Event(), threading.Event()
    keep = [[] for _ in range(500_000)]
    def take(): lock.acquire()
    def other():
        go.wait()
        take()
        there.set()
        time.sleep(60)
    thread(other)
    assert forked(lambda: None) == 0
    go.set()
    there.wait()
    assert forked(lambda: None) == 0
    for _ in range(60): # a search takes as long as the machine makes it, and the next is due 200 times later
        time.sleep(1)
        assert forked(lambda: None) == 0
        if '"certain"' in open('events.jsonl').read():
            break
    os._exit(0)
    """
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path, limit=300))
    risks = [fork["risk"] for fork in forks(tmp_path)]
    assert (risks[:2], risks[-1]) == (["none", "none"], "certain")
