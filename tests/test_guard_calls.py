"""Forks while other threads make native calls without a pause: the wait ends, and no child finds their locks held.

Such a thread lets the GIL go inside the call only, so it is inside whenever the forking thread looks.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Run
from forking import program

CEASELESS = """
import bz2, hashlib, lzma, sqlite3, zlib

def ceaseless(*calls):
    def work(call):
        while True: call()
    for call in calls:
        thread(work, call)
    time.sleep(0.05)

LONG = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select sum(i) from n"

def database():
    return sqlite3.connect(":memory:", check_same_thread=False)
"""


# That a fork comes to a safe point is what is shown here; how soon is a matter of the machine's load.
PATIENT = "forkproof.install(warn=False, wait=30)"


def _answers(run: Run, body: str, forks: int = 30) -> str:
    ended = run(
        "-c",
        program(CEASELESS, install=PATIENT)
        + dedent(body)
        + f"\nprint({{forked(child) for _ in range({forks})}})\n",
        limit=120,
    )
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.parametrize(
    "make",
    [
        "zlib.compressobj(1)",
        "bz2.BZ2Compressor(1)",
        "lzma.LZMACompressor(preset=0)",
        "hashlib.sha256()",
    ],
)
def test_an_object_that_is_used_ceaselessly(run: Run, make: str) -> None:
    body = f"""
        data = os.urandom(20_000)
        shared = {make}
        use = getattr(shared, "compress", None) or shared.update
        ceaseless(lambda: use(data))
        def child(): use(data)
    """
    assert _answers(run, body) == "{0}\n"


def test_a_type_that_its_module_hides_is_known_at_the_first_fork_after_the_import(run: Run) -> None:
    ended = run(
        "-c",
        dedent("""
            import os, sys, threading, forkproof
            forkproof.install(policy="observe")
            assert "zlib" not in sys.modules
            import zlib
            shared, data, begun = zlib.compressobj(9), os.urandom(20_000_000), threading.Event()
            def work():
                begun.set()
                while True: shared.compress(data)
            threading.Thread(target=work, daemon=True).start()
            begun.wait()
            if os.fork() == 0: os._exit(0)
            os.wait()
            os._exit(0)
        """),
        limit=120,
    )
    assert "is inside compressor or decompressor" in ended.stderr


def test_an_object_that_three_threads_use(run: Run) -> None:
    body = """
        data = os.urandom(20_000)
        shared = zlib.compressobj(1)
        ceaseless(*[lambda: shared.compress(data)] * 3)
        def child(): shared.compress(data)
    """
    assert _answers(run, body) == "{0}\n"


def test_three_objects_that_have_to_be_left_at_the_same_time(run: Run) -> None:
    body = """
        data = os.urandom(20_000)
        shared = [zlib.compressobj(1) for _ in range(3)]
        ceaseless(*[lambda s=s: s.compress(data) for s in shared])
        def child():
            for s in shared: s.compress(data)
    """
    assert _answers(run, body) == "{0}\n"


def test_an_object_that_is_used_under_a_lock(run: Run) -> None:
    body = """
        data, lock = os.urandom(20_000), threading.Lock()
        shared = zlib.compressobj(1)
        def compress():
            with lock:
                shared.compress(data)
        ceaseless(compress, compress)
        def child():
            must_be_free(lock)
            compress()
    """
    assert _answers(run, body) == "{0}\n"


@pytest.mark.parametrize(
    "prepare",
    [
        "query = 'select 1'",
        "query = 'select f()'; connection.create_function('f', 0, lambda: 1)",
        "query = 'select f()'; connection.create_function('f', 0, lambda: sum(range(20_000)))",
        "query = LONG; connection.set_progress_handler(lambda: 0, 100)",
        "query = LONG; connection.set_trace_callback(lambda text: None)",
    ],
    ids=["plain", "function", "slow function", "progress", "trace"],
)
def test_a_database_that_calls_python(run: Run, prepare: str) -> None:
    """SQLite holds the connection's mutex while it calls back, and while it waits for the GIL to do so."""
    body = f"""
        connection = database()
        {prepare}
        ceaseless(lambda: connection.execute(query).fetchall())
        def child(): connection.execute("select 1").fetchall()
    """
    assert _answers(run, body) == "{0}\n"


def test_threads_that_were_stopped_go_on(run: Run) -> None:
    """In the parent at once, and pending calls and trace functions work as before."""
    body = """
        data = os.urandom(20_000)
        shared = [zlib.compressobj(1) for _ in range(3)]
        turns = [0, 0, 0]
        def compress(i):
            shared[i].compress(data)
            turns[i] += 1
        ceaseless(*[lambda i=i: compress(i) for i in range(3)])
        def child():
            sys.settrace(lambda *args: None)     # a trace function of its own
            t = thread(lambda: None)
            t.join(5)
            assert not t.is_alive()
        for _ in range(20):
            assert forked(child) == 0
            seen = list(turns)
            until(lambda: all(now > then for now, then in zip(turns, seen)), 20)
        assert sys.gettrace() is None
        print("went on", flush=True)
        os._exit(0)
    """
    assert _answers(run, body) == "went on\n"


def test_a_thread_with_a_trace_function_keeps_it(run: Run) -> None:
    body = """
        forkproof.install(warn=False, wait=0.1)  # on 3.11 such a thread cannot be stopped
        data = os.urandom(20_000)
        shared = zlib.compressobj(1)
        lines = [0]
        def tracer(frame, event, argument):
            lines[0] += event == "line"
            return tracer
        def work():
            sys.settrace(tracer)
            compress()
        def compress():
            while True:
                shared.compress(data)
        thread(work)
        until(lambda: lines[0] > 10)
        for _ in range(10):
            os.waitpid(os.fork() or os._exit(0), 0)
            seen = lines[0]
            until(lambda: lines[0] > seen)
        print("still traced", flush=True)
        os._exit(0)
    """
    assert _answers(run, body) == "still traced\n"


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_catalogued_lock_that_is_one_of_threadings(run: Run, kind: str) -> None:
    """As numpy.random's: it is taken, named and reset like any other, and followed when the library replaces it."""
    body = f"""
        import types
        from forkproof import catalogue
        library = types.ModuleType("library_with_a_lock")
        library.lock = threading.{kind}()
        sys.modules["library_with_a_lock"] = library
        facts = dict(path="library_with_a_lock.lock", distribution="library-with-a-lock", what="its lock", source="", advice="")
        catalogue.all_locks = lambda: [catalogue.Lock(facts)]
        forkproof.install(warn=False)
        library.lock = threading.{kind}()                  # replaced after it was found
        hold = library.lock.__enter__, library.lock.__exit__
        def work():
            while True:
                sum(map(call, range(2)))                   # held where no frame shows it
        def call(i):
            return hold[i](*[None] * 3 * i) and 0 or sum(range(3000)) * 0
        thread(work)
        def child(): must_be_free(library.lock)
        if {kind == "RLock"}:
            told = set()
            until(lambda: told.update(h.thread.name for h in forkproof.assess().hazards if h.what == "its lock") or told)
            assert told == {{"Thread-1 (work)"}}
    """
    assert _answers(run, body) == "{0}\n"


def test_what_is_imported_while_the_fork_waits_is_known_to_it(run: Run) -> None:
    body = """
        data = os.urandom(300_000)
        began = threading.Event()
        class Slow:
            def find_spec(self, name, path, target=None):
                if name == "lzma":
                    began.set()
                    time.sleep(0.1)
        sys.meta_path.insert(0, Slow())
        shared = []
        def work():
            import lzma
            shared.append(lzma.LZMACompressor(preset=0))
            while True: shared[0].compress(data)
        thread(work)
        began.wait()
        def child():
            if shared: shared[0].compress(data)
        print({forked(child) for _ in range(5)})
    """
    # One call takes a tenth of a second of a processor, and of that a busy machine may not have one in a second of the wait.
    ended = run("-c", program(body, install=PATIENT), limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_what_was_half_imported_at_one_fork_is_known_to_the_next(run: Run, tmp_path: Path) -> None:
    """The number of modules is the same at both, and no import is under way any more."""
    body = """
        import types
        from forkproof import catalogue
        facts = dict(what="a call", names=["library_of_calls.call"], resource="process", gil_outside=False, holds="", child="", source="", advice="")
        catalogue.calls = lambda: [catalogue.Call(facts)]
        def spec(half): return types.SimpleNamespace(_initializing=half)
        library = sys.modules["library_of_calls"] = types.ModuleType("library_of_calls")
        library.__spec__ = spec(True)
        forkproof.install(warn=False, wait=0.01, events="events.jsonl")
        gate, end = os.pipe()
        def work(): os.read(gate, 1)
        worker = thread(work)
        def call(): return open(f"/proc/self/task/{worker.native_id}/syscall").read().split()
        until(lambda: call()[1:2] == [hex(gate)])
        assert forked(int) == 0
        library.call, library.__spec__ = os.read, spec(False)
        assert forked(int) == 0
        os.close(end)
        worker.join()
    """
    assert run("-W", "ignore", "-c", program(body), cwd=tmp_path).status == 0
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert [[h["what"] for h in line["hazards"]] for line in lines if line["event"] == "fork"] == [
        [],
        ["a call"],
    ]


def test_a_warning_of_ours_never_waits_for_the_lock_of_warnings(run: Run) -> None:
    """From 3.14 on it is a lock in C that a fork does not reset. The one that has it here does not let go before the end."""
    body = """
        import _warnings, io
        lock, held = threading.Lock(), threading.Event()
        done = []
        def work():
            with getattr(warnings, "_lock", lock):
                held.set()
                while not done: time.sleep(0.001)
        def child():
            warnings.warn("in the child")
        thread(work)
        held.wait()
        began = time.monotonic()
        forkproof.assess()
        ask = __import__("forkproof.guard").guard
        ask._warn([dict(cleared=False, thread=None, state="holds", what="a lock", advice="none")], sys._getframe(), "x")
        assert time.monotonic() - began < 5
        # os.fork() itself waits for it in the parent, to warn of the threads; so it is let go of meanwhile.
        threading.Timer(1.5, done.append, [1]).start()
        print({forked(child)})
    """
    ended = run("-W", "ignore", "-c", program(body, install="forkproof.install(warn=False, wait=0.2)"))
    assert ended.stdout == "{0}\n", ended.stderr
