"""A child that waits for what a thread of the program's own was to do, which no catalogue knows: reported, by that thread's code. One
that waits for anything else: not.

The children of each table are forked from one program and run side by side.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

from conftest import Run
from watching import LONG_ENOUGH, SIDE_BY_SIDE, UNTIL_TOLD, children_of, watched

OPTIONS = "policy='observe', hang_after=0.3, watch_all=True"

OWN = """
import heapq, queue
from forkproof import _native
from collections import deque

class Job:
    def __init__(self): self.done = threading.Event()

class Base:
    "Its thread takes what is handed to it and says when it is done."
    def __init__(self): self.start()
    def start(self): thread(self._run)

class ByCondition(Base):
    def __init__(self):
        self.changed, self.jobs, self.idle = threading.Condition(), deque(), threading.Event()
        super().__init__()
    def _run(self):
        while True: self._step()
    def _step(self):
        with self.changed:
            while not self.jobs:
                self._rest()
                self.changed.wait()
            job = self.jobs.popleft()
        job.done.set()
    def _rest(self):
        self.idle.set()
        self.changed.notify_all()
    def give(self):
        job = Job()
        with self.changed:
            self.idle.clear()
            self.jobs.append(job)
            self.changed.notify_all()
        return job
    def drain(self):
        with self.changed: self.changed.wait_for(lambda: not self.jobs)

class ByEvent(Base):
    def __init__(self):
        self.wake, self.jobs = threading.Event(), []
        super().__init__()
    def _run(self):
        while True:
            self.wake.wait()
            self.wake.clear()
            jobs, self.jobs = self.jobs, []
            for done in jobs: done()
    def give(self, done):
        self.jobs.append(done)
        self.wake.set()

class Ordered(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.heap, self.some = [], threading.Semaphore(0)
        self.start()
    def run(self):
        while True:
            self.some.acquire()
            when, done = heapq.heappop(self.heap)
            done.set()
    def give(self):
        done = threading.Event()
        heapq.heappush(self.heap, (0, done))
        self.some.release()
        return done

class Ticker(Base):
    "Gives a permit now and then, until it is told to stop."
    def __init__(self):
        self.stop, self.broken, self.permits = threading.Event(), threading.Event(), threading.Semaphore(0)
        super().__init__()
    def _run(self):
        try:
            while not self.stop.wait(3600): self.permits.release()
        except Exception:
            self.broken.set()

class Closed:
    def __init__(self):
        changed, jobs = threading.Condition(), deque()
        def run():
            take = jobs.popleft
            while True:
                with changed:
                    while not jobs: changed.wait()
                    take().done.set()
        thread(run)
        self.jobs = jobs

class Answering(Base):
    def __init__(self):
        self.asked, self.answers = queue.Queue(), queue.Queue()
        super().__init__()
    def _run(self):
        while True: self.answers.put(self.asked.get())

at_work = threading.Event()
class Busy(Base):
    def __init__(self):
        self.done = threading.Event()
        super().__init__()
    def _run(self):
        at_work.set()
        time.sleep(3600)
        self.done.set()

by_condition, by_event, ordered, ticker, closed = ByCondition(), ByEvent(), Ordered(), Ticker(), Closed()
busy, answering = Busy(), Answering()
by_condition.give().done.wait()
at_work.wait()
until(lambda: len(_native.waiters()) == 6, 20)

def sleeper():
    "So that the world is not closed: it may do anything, any time."
    thread(time.sleep, 3600)
"""

HANGS = {
    "a job that a thread takes out of a deque": (
        "by_condition.give().done.wait()",
        "__main__.ByCondition._run",
    ),
    "the event that the thread sets when it rests": (
        "by_condition.give(); by_condition.idle.wait()",
        "__main__.ByCondition._run",
    ),
    "the condition that it waits for itself, and notifies": (
        "by_condition.give(); by_condition.drain()",
        "__main__.ByCondition._run",
    ),
    "a job in a list that it replaces": (
        "e = threading.Event(); by_event.give(e.set); e.wait()",
        "__main__.ByEvent._run",
    ),
    "a job in a heap, of a class of thread": ("ordered.give().wait()", "__main__.Ordered.run"),
    "a permit": ("ticker.permits.acquire()", "__main__.Ticker._run"),
    "a job for a function, by what it encloses": (
        "job = Job(); closed.jobs.append(job); job.done.wait()",
        "__main__.Closed.__init__.<locals>.run",
    ),
    "an answer by a queue": ("answering.asked.put(1); answering.answers.get()", "__main__.Answering._run"),
    "what a thread was at work on": ("busy.done.wait()", "__main__.Busy._run"),
}

HEALTHY = {
    "an event that the thread only waits for": "ticker.stop.wait()",
    "an event that it sets when it fails": "ticker.broken.wait()",
    "one that it knows nothing of": "threading.Event().wait()",
    "a job that a thread of its own knows of": """
        job = by_condition.give()
        thread(lambda: (time.sleep(3600), job.done.set()))
        job.done.wait()
    """,
    "a thread of its own that has the jobs at hand": """
        def serve(worker):
            time.sleep(3600)
            worker._run()
        thread(serve, by_condition)
        by_condition.give().done.wait()
    """,
    "it does itself what the thread did": "by_condition._run()",
    "an event that a handler of a signal sets": """
        signal.signal(signal.SIGTERM, lambda *_: busy.done.set())
        busy.done.wait()
    """,
}


def _run(run: Run, tmp_path: Path, table: dict[str, str], over: str) -> dict[str, dict[str, Any] | None]:
    bodies = {name: f"sleeper()\n{dedent(body)}" for name, body in table.items()}
    text = watched(tmp_path / "events", SIDE_BY_SIDE, OWN, children_of(bodies), over, options=OPTIONS)
    ended = run("-c", text, limit=100)
    assert ended.status == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def test_who_waits_for_what_a_vanished_thread_was_to_do_is_reported(run: Run, tmp_path: Path) -> None:
    found = _run(run, tmp_path, {name: body for name, (body, _) in HANGS.items()}, UNTIL_TOLD)
    told = {name: event and (event["verdict"], event["hazard"]["what"]) for name, event in found.items()}
    assert told == {name: ("likely", f"thread that runs {what}") for name, (_, what) in HANGS.items()}


def test_who_waits_for_anything_else_is_left_in_peace(run: Run, tmp_path: Path) -> None:
    assert _run(run, tmp_path, HEALTHY, LONG_ENOUGH) == dict.fromkeys(HEALTHY)


def test_under_run_a_child_that_misses_such_a_thread_is_watched(run: Run, tmp_path: Path) -> None:
    """And no other is; install() has to be asked for it."""
    body = """
    def threads():
        print(len(os.listdir("/proc/self/task")), flush=True)
    os.waitpid(child_of(threads), 0)
    asleep = threading.Event()
    thread(asleep.wait)
    from forkproof import _native
    until(_native.waiters)
    os.waitpid(child_of(threads), 0)
    thread(lambda: asleep.wait())
    until(lambda: len(_native.waiters()) == 2)
    os.waitpid(child_of(threads), 0)
    forkproof.install(policy="observe")
    os.waitpid(child_of(threads), 0)
    """
    ended = run("-c", watched(tmp_path / "events", body, options="policy='observe', connections=True"))
    assert ended.stdout == "1\n1\n2\n1\n", ended.stderr
