"""Plain Locks that one function takes and another lets go of: they name no owner, and no frame has both calls with the lock."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from forking import OBSERVE, WAIT, forks, program, succeeds

# What a program may have: each way to take a lock and to let go of it, and that lock.
SHAPES = """
    import contextlib, functools
    taken, done = threading.Event(), threading.Event()
    LOCK = threading.Lock()
    STRIPES = [threading.Lock(), threading.Lock()]
    def begin():
        LOCK.acquire()
    def commit():
        LOCK.release()
    def grab(lock):
        lock.acquire()
    def drop(lock):
        lock.release()
    class Store:
        shared = threading.Lock()
        def __init__(self):
            self._lock = threading.Lock()
            self._permit = threading.Semaphore(1)
            self._take, self._give = self._lock.acquire, self._lock.release
            self._keys = {"a": threading.Lock()}
        def begin(self):
            self._enter()
        def _enter(self):
            self._lock.acquire()
        def commit(self):
            self._lock.release()
        def attempt(self):
            return self._lock.acquire(timeout=5)
        @classmethod
        def open(cls):
            cls.shared.acquire()
        @classmethod
        def close(cls):
            cls.shared.release()
        def lock(self, key):
            lock = self._keys[key]
            lock.acquire()
        def unlock(self, key):
            lock = self._keys[key]
            lock.release()
        def finish(self, note, lock):
            lock.release()
        def slot(self):
            self._permit.acquire()
        def free_slot(self):
            self._permit.release()
    class Hold:
        def __init__(self):
            LOCK.acquire()
        def close(self):
            LOCK.release()
    class Session:
        def __init__(self, store):
            self.store = store
            store._lock.acquire()
        def close(self):
            self.store._lock.release()
    class Hooks:
        def __init__(self, before, after):
            self.before, self.after = [before], [after]
        def run(self):
            for hook in self.before:
                hook()
            pause()
            for hook in self.after:
                hook()
    def closures():
        lock = threading.Lock()
        def take():
            lock.acquire()
        def give():
            lock.release()
        return take, give, lock
    store = Store()
    take, give, enclosed = closures()
    hooks = Hooks(store.begin, store.commit)
    def pause():
        taken.set()
        done.wait()
"""
WAYS = {  # what takes it, what gives it back, the lock, the name that is told, and how surely
    "methods": ("store.begin()", "store.commit()", "store._lock", "_lock of __main__.Store", "possible"),
    "class methods": ("Store.open()", "Store.close()", "Store.shared", "shared of __main__.Store", "possible"),
    "functions": ("begin()", "commit()", "LOCK", "LOCK of __main__", "possible"),
    "closures": ("take()", "give()", "enclosed", "enclosed of __main__", "possible"),
    "its own methods, kept": ("store._take()", "store._give()", "store._lock", "_lock of __main__.Store", "possible"),
    "an attempt": ("store.attempt()", "store.commit()", "store._lock", "_lock of __main__.Store", "possible"),
    "an argument": ("grab(LOCK)", "drop(LOCK)", "LOCK", "LOCK of __main__", "possible"),
    "a local": ("store.lock('a')", "store.unlock('a')", "store._keys['a']", None, "possible"),
    "an item": ("STRIPES[1].acquire()", "STRIPES[1].release()", "STRIPES[1]", None, "possible"),
    "an object": ("s = Session(store)", "s.close()", "store._lock", "_lock of __main__.Store", "possible"),
    "given to who lets go": ("LOCK.acquire()", "drop(LOCK)", "LOCK", None, "possible"),
    "given to a method": ("store._lock.acquire()", "store.finish('', store._lock)", "store._lock", "_lock of __main__.Store", "possible"),
    "a local, given": ("lock = STRIPES[1]; lock.acquire()", "drop(lock)", "STRIPES[1]", None, "possible"),
    "half by half": ("store.begin()", "LOCK.locked(); store._lock.release()", "store._lock", "_lock of __main__.Store", "possible"),
}  # fmt: skip
ways = pytest.mark.parametrize("way", WAYS)

HOLDER = """
    def hold():
        TAKE
        pause()
        GIVE
    holder = threading.Thread(target=hold, name="holder", daemon=True)
    holder.start()
    taken.wait()
"""


def holder(way: str) -> str:
    take, give = WAYS[way][:2]
    return SHAPES + HOLDER.replace("TAKE", take).replace("GIVE", give)


@ways
def test_its_holder_is_told(run: Run, tmp_path: Path, way: str) -> None:
    body = holder(way) + "    assert forked(lambda: None) == 0\n    os._exit(0)\n"
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    (hazard,) = fork["hazards"]
    name, certainty = WAYS[way][3:]
    assert (hazard["kind"], hazard["state"], hazard["certainty"]) == ("held-lock", "holds", certainty)
    assert hazard["thread"]["name"] == "holder"
    assert hazard["held_at"]["function"] == "hold"
    assert name is None or hazard["what"] == name


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


CHILDREN = {
    "what it makes and leaves by with": """
        if done.is_set():
            with contextlib.closing(Hold()):
                pass
        os.kill(os.getpid(), 9)""",
    "and os._exit": """
        if done.is_set():
            store.begin()
        os._exit(0)""",
}


@pytest.mark.parametrize("child", CHILDREN)
def test_what_only_the_child_takes_the_forking_thread_has_not(run: Run, tmp_path: Path, child: str) -> None:
    """The next fork of the loop is behind that call only where the call comes back."""
    work = CHILDREN[child].strip()
    body = (
        holder("functions")
        + f"""
    def work():
        {work}
    for _ in range(2):
        if os.fork() == 0:
            {"work()" if "with" in child else work.replace("        ", "            ")}
        os.wait()
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    assert [[hazard["what"] for hazard in fork["hazards"]] for fork in forks(tmp_path)] == [
        ["LOCK of __main__"]
    ] * 2


PERMIT = ("store.slot()", "store.free_slot()")


def test_a_permit_is_told_and_comes_back_in_the_child(run: Run, tmp_path: Path) -> None:
    body = (
        SHAPES
        + HOLDER.replace("TAKE", PERMIT[0]).replace("GIVE", PERMIT[1])
        + "    assert forked(lambda: must_be_free(store._permit)) == 0\n    os._exit(0)\n"
    )
    install = "forkproof.install(wait=0.05, events='events.jsonl', warn=False)"
    succeeds(run("-c", program(body, install=install), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    assert [(hazard["what"], hazard["certainty"]) for hazard in fork["hazards"]] == [
        ("_permit of __main__.Store", "possible")
    ]


CALLBACKS = """
    holder = threading.Thread(target=hooks.run, name="holder", daemon=True)
    holder.start()
    taken.wait()
"""


def test_callbacks_that_take_it_and_let_go(run: Run, tmp_path: Path) -> None:
    """No frame calls either by a name: the class that keeps the lock has a method for each half."""
    body = SHAPES + CALLBACKS + "    assert forked(lambda: None) == 0\n    os._exit(0)\n"
    succeeds(run("-c", program(body, install=OBSERVE), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    assert [(h["what"], h["certainty"], h["thread"]["name"]) for h in fork["hazards"]] == [
        ("_lock of __main__.Store", "possible", "holder")
    ]


def test_callbacks_are_waited_for(run: Run, tmp_path: Path) -> None:
    body = (
        SHAPES
        + CALLBACKS
        + """
    threading.Timer(0.1, done.set).start()
    assert forked(lambda: must_be_free(store._lock)) == 0
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body, install=WAIT), cwd=tmp_path))


def test_the_next_of_several_locks_is_expected(run: Run) -> None:
    """A thread that goes from one lock to the next, of which only the function that takes them has names."""
    body = (
        SHAPES
        + """
    def work():
        while True:
            for i in range(2):
                STRIPES[i].acquire()
                try:
                    time.sleep(0.001)
                finally:
                    STRIPES[i].release()
    thread(work)
    for _ in range(40):
        assert forked(lambda: must_be_free(*STRIPES)) == 0
    os._exit(0)
    """
    )
    succeeds(run("-c", program(body)))


SILENT = {
    "the forking thread's, by a method": "store.begin()",
    "the forking thread's, by an argument": "grab(LOCK)",
    "the forking thread's own callback": "hooks.before.append(lambda: fork()); pause = print",
    "a signal that another thread will give": """
    LOCK.acquire()
    def work():
        done.wait()
        LOCK.release()
    thread(work)""",
    "a signal of a class": """
    class Signal:
        def __init__(self):
            self._lock = threading.Lock()
            self._lock.acquire()
        def wait(self):
            self._lock.acquire()
        def set(self):
            self._lock.release()
    signal = Signal()
    def work():
        done.wait()
        signal.set()
    thread(work)""",
    "let go of by another method already": """
    def work():
        store.begin()
        store.commit()
        taken.set()
        done.wait()
    thread(work)
    taken.wait()
    store.begin()""",
    "of a thread that waits for it": """
    def work():
        taken.set()
        store.begin()
        store.commit()
    store.begin()
    thread(work)
    taken.wait()""",
}


@pytest.mark.parametrize("policy", ["observe", "wait"])
@pytest.mark.parametrize("case", SILENT)
def test_what_is_no_hazard_is_not_spoken_about(run: Run, tmp_path: Path, case: str, policy: str) -> None:
    body = f"""
    {SHAPES.strip()}
    def fork():
        assert forked(lambda: None) == 0
    thread(time.sleep, 60)
    {SILENT[case].strip()}
    {"hooks.run()" if "callback" in case else "fork()"}
    os._exit(0)
    """
    install = f"forkproof.install({policy!r}, events='events.jsonl', warn=False)"
    succeeds(run("-c", program(body, install=install), cwd=tmp_path))
    (fork,) = forks(tmp_path)
    assert (fork["risk"], fork["hazards"]) == ("none", [])
