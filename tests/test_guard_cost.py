"""What a fork costs where nothing is at risk: counted, not timed. And that what makes it cheap forgets nothing.

That nothing runs between forks is shown in test_guard_innocence.py.
"""

from __future__ import annotations

import platform
import sys
from textwrap import dedent

import pytest
from conftest import Run
from forking import program

from forkproof import _native

# Where threads stand still: a look at the first two need not be made again, at the third it must be.
IDLE = {
    "wait": "threading.Event().wait()",
    "sleep": "time.sleep(1000)",
    "for": "for _ in (x for x in [1, 2]): time.sleep(1000)",
}

COMMON = """
import gc

def idle(text, number=20):
    ready = threading.Semaphore(0)
    names = {"threading": threading, "time": time, "ready": ready}
    exec(f"def stand():\\n    ready.release()\\n    {text}", names)
    for _ in range(number): thread(names["stand"])
    for _ in range(number): ready.acquire()
    time.sleep(0.05)

def hooks():
    "Those that stand in a list of the interpreter's."
    return [x for l in gc.get_objects() if type(l) is list for x in l if type(x).__name__ == "hook"]

def listed():
    return sorted(hook.__name__ for hook in hooks())

def clean():
    "Whether a fork from here leaves nothing at risk, as Forkproof sees it."
    forked(int)
    return forkproof._native.last_clean()
"""


def measured(body: str, install: str = "forkproof.install(warn=False)") -> str:
    return program(COMMON + install + "\n" + dedent(body), install="")


@pytest.mark.parametrize("where", IDLE)
def test_ten_thousand_looks_keep_no_object_and_no_memory(run: Run, where: str) -> None:
    """The before-callback by itself, as for forks that never come about; others run before each hundredth."""
    body = f"""
        import ctypes
        class Information(ctypes.Structure):
            _fields_ = [(name, ctypes.c_size_t) for name in
                        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
        mallinfo = ctypes.CDLL(None).mallinfo2
        mallinfo.restype = Information
        idle({IDLE[where]!r})
        def others():
            while True: time.sleep(0.0001)
        thread(others)
        before, = [hook for hook in hooks() if hook.__name__ == "forkproof_before"]
        def forks(number):
            for n in range(number):
                if n % 100 == 0: time.sleep(0.0003)
                before()
            forked(int)  # the last one ends what they began
        def used():
            gc.collect()
            return sys.getallocatedblocks(), mallinfo().uordblks
        forks(300)
        used()
        blocks, size = used()
        forks(10_000)
        more_blocks, more = used()
        print(more_blocks - blocks, "blocks,", more - size, "bytes", file=sys.stderr)
        print(more_blocks - blocks < 100, more - size < 50_000)
    """
    ended = run("-c", measured(body), limit=60)
    assert ended.stdout == "True True\n", ended.stderr


@pytest.mark.parametrize("where", IDLE)
def test_at_a_clean_fork_no_python_code_of_forkproof_runs(run: Run, where: str) -> None:
    body = f"""
        import sys
        idle({IDLE[where]!r})
        forked(int)
        seen = []
        here = os.path.dirname(forkproof.__file__)
        def watch(frame, event, _):
            if frame.f_code.co_filename.startswith(here): seen.append(frame.f_code.co_name)
        sys.setprofile(watch)
        child = [forked(lambda: 1/0 if seen else None) for _ in range(3)]
        sys.setprofile(None)
        print(child, seen)
    """
    ended = run("-c", measured(body))
    assert ended.stdout == "[0, 0, 0] []\n", ended.stderr


def test_only_a_fork_that_has_something_to_say_has_hooks_after_it(run: Run) -> None:
    body = """
        idle("time.sleep(1000)")
        forked(int)
        print(*listed())
        lock, taken, go = threading.Lock(), threading.Event(), threading.Event()
        def hold():
            with lock: taken.set(); go.wait()
        holder = thread(hold); taken.wait()
        forked(lambda: must_be_free(lock))
        print(*listed())
        go.set(); holder.join()
        forked(int)
        print(*listed())
    """
    ended = run("-c", measured(body, install="forkproof.install(warn=False, wait=0.05)"))
    assert ended.stdout.split("\n") == [
        "forkproof_before",
        "forkproof_after_in_parent forkproof_before forkproof_first_in_child forkproof_last_in_child",
        "forkproof_before",
        "",
    ], ended.stderr


def test_what_every_fork_writes_to_lies_beside_what_the_system_writes_to(run: Run) -> None:
    """So no page is copied for it; where there is no such place, as in a program that was imported by another thread, the forks
    are the same."""
    body = """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.pthread_self.restype = ctypes.c_ulong
        (before,) = {id(hook) for hook in hooks() if hook.__name__ == "forkproof_before"}
        print(abs(before - libc.pthread_self()) < 4096)
    """
    ended = run("-c", measured(body))
    assert ended.stdout == f"{sys.platform == 'linux' and platform.libc_ver()[0] == 'glibc'}\n", ended.stderr


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="no object is immortal there, and CPython does not warn"
)
def test_cpythons_warning_counts_no_references_of_the_filters_method() -> None:
    assert sys.getrefcount(vars(_native.ForkWarning)["match"]) == sys.getrefcount(None)


LOCK_AT_FORKS = """
import os, threading
lock, taken, go = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock: taken.set(); go.wait()
threading.Thread(target=hold).start()
taken.wait()
threading.Timer(0.1, go.set).start()
def fork():
    "The child has the lock, and so has its own."
    pid = os.fork()
    if pid == 0:
        ok = lock.acquire(timeout=5)
        if ok and depth.pop(): lock.release(); fork()
        os._exit(not ok)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), forkproof._native.forks(), flush=True)
depth = [False, True]
"""


@pytest.mark.parametrize(
    "imported", [False, True], ids=["imported by the main thread", "imported by another"]
)
@pytest.mark.parametrize("forks", [False, True], ids=["forked by the main thread", "forked by another"])
def test_whichever_thread_imports_and_forks(run: Run, imported: bool, forks: bool) -> None:
    code = f"""
import threading
def elsewhere(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
def load():
    global forkproof
    import forkproof
    forkproof.install(warn=False)
{"elsewhere(load)" if imported else "load()"}
{LOCK_AT_FORKS}
{"elsewhere(fork)" if forks else "fork()"}
"""
    ended = run("-c", code)
    assert ended.stdout == "0 2\n0 1\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# A look that is not made again


def test_a_lock_that_another_thread_takes_between_two_forks_is_seen(run: Run) -> None:
    body = """
        idle("time.sleep(1000)")
        lock = threading.Lock()
        read, write = os.pipe()
        def holder():
            os.read(read, 1)
            with lock: time.sleep(1000)
        thread(holder); time.sleep(0.05)
        before = [clean() for _ in range(3)]
        os.write(write, b"x")
        until(lock.locked)
        print(before, clean())
    """
    ended = run("-c", measured(body, install="forkproof.install('observe', warn=False)"))
    assert ended.stdout == "[True, True, True] False\n", ended.stderr


# What the forking thread itself changes while all others stand still.
CHANGES = {
    "a generator is gone on with": """
        def locking():
            yield 1
            with lock: yield 2
        generator = locking()
        def stand():
            for _ in generator: time.sleep(1000)
        def change(): next(generator)
    """,
    "a manager gets another lock": """
        class Box:
            def __init__(self): self.lock = threading.Lock()
            def __enter__(self): self.lock.acquire()
            def __exit__(self, *_): self.lock.release()
        box = Box()
        def stand():
            with box: time.sleep(1000)
        def change():
            box.lock = lock
            operator.methodcaller("acquire")(lock)
    """,
    "a lock is taken in another's name": """
        def stand():
            lock.acquire()
            try: time.sleep(1000)
            finally: lock.release()
        def change(): operator.methodcaller("acquire")(lock)
    """,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_forking_thread_changes_between_two_forks_is_seen(run: Run, change: str) -> None:
    """What frames alone do not decide is looked at anew, though no other thread has run. No frame shows who takes the lock."""
    free = {
        "a manager gets another lock": "box.lock.release()",
        "a lock is taken in another's name": "lock.release()",
    }
    body = f"""
        import operator
        lock = threading.Lock()
{CHANGES[change]}
        idle("time.sleep(1000)")
        thread(stand); time.sleep(0.05)
        {free.get(change, "")}
        before = [clean() for _ in range(3)]
        change()
        print(before, clean())
    """
    ended = run("-c", measured(body, install="forkproof.install('observe', warn=False)"))
    assert ended.stdout == "[True, True, True] False\n", ended.stderr


def test_what_was_seen_before_a_fork_is_not_believed_in_the_child(run: Run) -> None:
    """The threads it was about are gone there, and their waiters with them."""
    body = """
        idle("threading.Event().wait()")
        def grandchild():
            lock, taken = threading.Lock(), threading.Event()
            def hold():
                with lock: taken.set(); time.sleep(1000)
            thread(hold); taken.wait()
            assert not clean()
        def child():
            assert clean()
            idle("threading.Event().wait()", 3)
            assert clean() and clean()
            assert forked(grandchild) == 0
        clean()
        print({forked(child) for _ in range(10)})
    """
    ended = run("-c", measured(body, install="forkproof.install(warn=False, wait=0.02)"), limit=60)
    assert ended.stdout == "{0}\n", ended.stderr
