"""Processes that hang, nearly all without Forkproof inside: the verdict, the proof, and what the doctor says of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Run, Start
from doctoring import doctor, examine, looked_at, stands_still
from looking import until

from forkproof import lab
from forkproof.doctor.process import family

ARTICLE = Path(lab.__file__).parent / "programs" / "article.py"

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <unistd.h>
static pthread_mutex_t lookup_lock = PTHREAD_MUTEX_INITIALIZER;
typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    pthread_mutex_lock(&lookup_lock);
    if (write(99, ".", 1) == 1) pause();
    int error = ((lookup *)dlsym(RTLD_NEXT, "getaddrinfo"))(host, port, hints, found);
    pthread_mutex_unlock(&lookup_lock);
    return error;
}
"""


def test_article_waits_for_an_import_that_a_vanished_thread_has(run: Run, start: Start) -> None:
    for _ in range(10):  # where the thread stands at the fork is chance
        with start("-W", "ignore", ARTICLE) as program:
            program.until(lambda: program.process.poll() is not None or len(family(program.pid)) > 1)
            children = family(program.pid)[1:]
            if not children or not _hangs(children[0]):
                continue
            status, (found,) = doctor(run, children[0])
            assert (status, found.verdict, found.proof) == (1, "proven", "owner")
            assert "import of encodings.idna" in found.cause
            assert "no thread of this process can end that" in found.cause
            assert found.origin.parent == program.pid
            assert str(ARTICLE) in found.origin.command
            assert "import encodings.idna" in found.advice
            return
    pytest.fail("article.py did not hang in ten runs")


def _hangs(pid: int) -> bool:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            if stands_still(pid, lambda task: task.waits_for_ever):
                return True
        except Exception:  # it has ended
            return False
    return False


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "lookupshim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c"], check=True)
    return library


BEHIND_THE_SHIM = """
import encodings.idna, socket
told, tell_it = os.pipe()
os.dup2(tell_it, 99)    # the shim writes there once it has its lock
t = thread(socket.getaddrinfo, "localhost", 80)
os.read(told, 1)
os.close(99)            # and does not stop in it where it cannot write: in the child it stops at the lock
def looks_up():
    thread(lambda: [time.sleep(0.01) for _ in range(100000)])   # so that the world is not closed
    socket.getaddrinfo("localhost", 80)
child(looks_up)
"""


def test_a_native_mutex_is_proven_by_its_owner(
    run: Run, start: Start, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    with looked_at(start, BEHIND_THE_SHIM) as pid:
        monkeypatch.delenv("LD_PRELOAD")
        status, (found,) = doctor(run, pid)
        parents = {thread.native_id for thread in found.origin.threads}
    assert (status, found.verdict, found.proof) == (1, "proven", "owner")
    assert "getaddrinfo" in found.cause
    assert "lookupshim.so" in found.cause
    assert "normal mutex" in found.cause
    vanished = int(found.cause.split("held by thread ")[1].split(",")[0])
    assert vanished in parents
    assert vanished not in {view.thread.native_id for view in found.threads}


def test_a_closed_world_is_a_proof_of_its_own(start: Start) -> None:
    """A plain lock says nothing of its owner, and there is no record."""
    program = """
    lock = threading.Lock()
    hold(lock)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "closed-world")
    assert found.origin.vanished == 1


def test_a_record_is_a_proof_of_its_own(start: Start) -> None:
    """A plain lock, in a process where another thread runs on: only the fork's record tells."""
    program = """
    import json, mmap
    lock = threading.Lock()
    hold(lock)
    fork = {"v": 1, "event": "fork", "time": "", "pid": os.getpid(), "child": None, "fork": 1, "risk": "certain",
            "where": {"file": "app.py", "line": 1, "function": "f"}, "waited_ms": 0, "polls": 0, "repaired": [],
            "hazards": [{"kind": "held-lock", "certainty": "certain", "cleared": False, "what": "the app's lock",
                         "thread": {"name": "keeper", "ident": 1, "native_id": 1}, "stack": [],
                         "advice": "fork first", "address": hex(id(lock))}]}
    data = json.dumps(fork).encode()
    def waits():
        fd = os.memfd_create("forkproof-record")
        os.ftruncate(fd, 65536)
        record = mmap.mmap(fd, 65536, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        record.write(b"FPRECRD1" + len(data).to_bytes(4, "little") + data)
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "record")
    assert found.hazard and found.hazard.what == "the app's lock"
    assert "keeper" in found.cause
    assert found.advice == "fork first"


WATCHED = "import forkproof; forkproof.install(policy='observe', warn=False, hang_after=3600)\n"


def test_the_record_that_forkproof_leaves_is_such_a_proof(start: Start) -> None:
    program = """
    lock = threading.Lock()
    hold(lock)
    def waits():
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        with lock: pass
    child(waits)
    """
    with looked_at(start, WATCHED + dedent(program)) as pid:
        until(lambda: examine(pid).verdict != "none")
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "record"), found
    assert found.hazard and found.hazard.what == "lock in hold.<locals>.keep of <string>"
    assert found.hazard.advice == found.advice != ""


def test_a_world_is_closed_though_forkproof_watches_it(start: Start) -> None:
    """The watch is a thread that runs now and then, and wakes none of the program's."""
    program = """
    import queue
    q = queue.Queue()
    thread(q.get)
    while not any("consumer" in hazard.what for hazard in forkproof.assess().hazards): time.sleep(0.01)
    def waits():
        q.put(1)
        q.join()
    child(waits)
    """
    with looked_at(start, WATCHED + dedent(program), still=False) as pid:
        names = Path(f"/proc/{pid}/task")
        until(lambda: "forkproof-watch\n" in [(task / "comm").read_text() for task in names.iterdir()])
        until(lambda: examine(pid).verdict != "none")
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "closed-world"), found
    assert "it is the only thread" in found.cause


def test_a_recursive_lock_of_python_names_its_owner(start: Start) -> None:
    program = """
    class Cache:
        def __init__(self): self._guard = threading.RLock()
        def get(self):
            with self._guard: pass
    cache = Cache()
    hold_among_others(cache._guard)
    def waits():
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        cache.get()
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "'_guard' of Cache" in found.cause


def test_a_wait_with_a_limit_for_a_lock_that_will_not_come(start: Start) -> None:
    program = """
    lock = threading.RLock()
    hold_among_others(lock)
    def waits(guard):
        while not guard.acquire(timeout=5): pass
    child(lambda: waits(lock))
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("likely", None)
    assert "waits for some time for the lock" in found.cause and "in vain" in found.cause


def test_a_future_of_a_vanished_pool(start: Start) -> None:
    program = """
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor(2)
    pool.submit(int).result()
    child(lambda: pool.submit(int).result())
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "closed-world")
    assert "result of a Future" in found.cause


def test_a_thread_that_is_stuck_beside_a_main_thread_that_is_not(start: Start) -> None:
    program = """
    lock = threading.RLock()
    hold_among_others(lock)
    def waits():
        def monitor():
            with lock: pass
        thread(monitor)
        while True: time.sleep(0.01)
    child(waits)
    """
    with looked_at(start, program, still=False) as pid:
        time.sleep(0.5)
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert [view.verdict for view in found.threads] == ["none", "proven"]


def test_the_mutex_that_the_forking_thread_itself_had_is_not_called_orphaned(
    start: Start, tmp_path: Path
) -> None:
    """Its owner is a thread id of the parent's, and still it is the child's own."""
    program = """
    import ctypes
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    thread(time.sleep, 1000)
    def waits():
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        libc.pthread_mutex_lock(mutex)
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "likely"
    assert "which forked this process, had it at the fork" in found.cause


@pytest.mark.parametrize(("kind", "flavour"), [(1, "recursive"), (2, "error-checking")])
def test_flavours_of_mutexes(start: Start, kind: int, flavour: str) -> None:
    program = f"""
    import ctypes
    libc = ctypes.CDLL(None)
    attributes, mutex = ctypes.create_string_buffer(8), ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attributes)
    libc.pthread_mutexattr_settype(attributes, {kind})
    libc.pthread_mutex_init(mutex, attributes)
    held = threading.Event()
    def keep():
        libc.pthread_mutex_lock(mutex)
        held.set()
        time.sleep(1000)
    thread(keep)
    held.wait()
    child(lambda: libc.pthread_mutex_lock(mutex))
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert f"{flavour} mutex" in found.cause


@pytest.mark.parametrize("way", ["rdlock", "wrlock"])
def test_a_rwlock_that_a_vanished_thread_writes_under(start: Start, way: str) -> None:
    program = f"""
    import ctypes
    libc = ctypes.CDLL(None)
    lock = ctypes.create_string_buffer(64)
    held = threading.Event()
    def keep():
        libc.pthread_rwlock_wrlock(lock)
        held.set()
        time.sleep(1000)
    thread(keep)
    held.wait()
    child(lambda: libc.pthread_rwlock_{way}(lock))
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "rwlock" in found.cause


def test_a_rwlock_that_vanished_threads_read_under_names_nobody(start: Start) -> None:
    program = """
    import ctypes
    libc = ctypes.CDLL(None)
    lock = ctypes.create_string_buffer(64)
    held = threading.Event()
    def keep():
        libc.pthread_rwlock_rdlock(lock)
        held.set()
        time.sleep(1000)
    thread(keep)
    held.wait()
    child(lambda: libc.pthread_rwlock_wrlock(lock))
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "closed-world")


def test_a_child_whose_parent_is_gone_is_not_more_than_likely(start: Start) -> None:
    program = """
    lock = threading.Lock()
    hold(lock)
    if not os.fork():
        pid = os.fork()
        if pid:
            tell(pid)
            os._exit(0)
        with lock: pass
    time.sleep(1000)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("likely", None)
    assert found.origin.forked and found.origin.parent is None


def test_a_buffered_file_names_its_owner(start: Start) -> None:
    """A thread that is blocked in a write to a full pipe has the file's own lock, which no frame shows."""
    program = """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True: os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    file = open(writing, "wb", buffering=4096)
    native = []
    def blocked():
        native.append(threading.get_native_id())
        file.write(bytes(100000))
    def is_writing():
        return native and open(f"/proc/self/task/{native[0]}/syscall").read().startswith(("1 ", "64 "))
    thread(time.sleep, 1000)
    thread(blocked)
    thread(time.sleep, 1000)
    while not is_writing(): time.sleep(0.01)
    def waits():
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        file.write(b"more")
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "BufferedWriter" in found.cause


def test_tree_finds_the_one_that_hangs(run: Run, start: Start) -> None:
    program = """
    lock = threading.RLock()
    hold(lock)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        parent = os.stat(f"/proc/{pid}") and int(
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        )
        status, found = doctor(run, "--tree", parent)
    assert status == 1
    assert [(one.pid, one.verdict) for one in found] == [(parent, "none"), (pid, "proven")]


def test_watch_ends_when_one_hangs(run: Run, start: Start) -> None:
    program = """
    lock = threading.RLock()
    hold(lock)
    tell(os.getpid())
    time.sleep(1)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program, still=False) as pid:
        status, found = doctor(run, "--tree", "--watch", "--hang-after", "0.5", pid)
    assert status == 1
    assert [one.verdict for one in found] == ["proven"]


def test_watch_ends_when_all_have_ended(run: Run, start: Start) -> None:
    with looked_at(start, "tell(os.getpid()); time.sleep(2.5)", still=False) as pid:
        status, found = doctor(run, "--watch", pid)
    assert (status, found) == (0, [])


def test_a_core_file(run: Run, start: Start, tmp_path: Path) -> None:
    debugger = shutil.which("gcore")
    if not debugger:
        pytest.skip("no gcore")
    program = """
    lock = threading.RLock()
    hold(lock)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        made = subprocess.run([debugger, "-o", tmp_path / "core", str(pid)], capture_output=True, timeout=60)
        if made.returncode:
            pytest.skip(f"gcore cannot: {made.stderr.decode()}")
    status, (found,) = doctor(run, "--core", str(tmp_path / f"core.{pid}"))
    assert (status, found.pid, found.verdict, found.proof) == (1, pid, "proven", "owner")


# ----------------------------------------------------------------------------------------------------------------------
# Threads that wait for one another, in a process that no fork has anything to do with

# `slow` is imported by the thread that says so, and then needs the import lock.
SLOW_MODULE = """
import _imp, types
inside, (going, go) = threading.Event(), os.pipe()
source = "import os, between; between.inside.set(); os.read(between.going, 1); import wave"
between = sys.modules["between"] = types.SimpleNamespace(inside=inside, going=going)
import importlib.abc, importlib.util
class Slow(importlib.abc.Loader):
    def exec_module(self, module): exec(source, vars(module))
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, Slow()) if name == "slow" else None
sys.meta_path.insert(0, Finder())
sys.modules.pop("wave", None)
"""


def test_the_import_lock_and_an_import_that_wait_for_one_another(start: Start) -> None:
    program = SLOW_MODULE + dedent("""
    thread(__import__, "slow")
    inside.wait()
    _imp.acquire_lock()
    os.write(go, b"x")
    tell(os.getpid())
    import slow
    """)
    with looked_at(start, program, still=False) as pid:
        until(lambda: examine(pid).verdict not in ("none", "unknown"))
        found = examine(pid)
    assert "MainThread waits for the import of slow" in found.cause
    assert "has it and waits for the import lock; MainThread" in found.cause
    # 3.11 keeps its owner in a variable of its own, which has a place only where Python has its symbols.
    assert (found.verdict, found.proof) == ("proven", "owner") or (
        sys.version_info < (3, 12) and found.verdict == "likely" and "symbols of Python" in found.cause
    )
    assert {view.verdict for view in found.threads} == {found.verdict}


@pytest.mark.skipif(sys.version_info[:2] != (3, 12), reason="CPython 3.12 warns with the import lock held")
def test_a_warning_of_a_fork_that_waits_for_a_thread_that_waits_for_the_fork(start: Start) -> None:
    program = SLOW_MODULE + dedent("""
    import warnings
    def shown(*_): import slow
    warnings.showwarning = shown
    warnings.simplefilter("always")
    thread(__import__, "slow")
    inside.wait()
    tell(os.getpid())
    if os.fork() == 0:
        os.write(go, b"x")
        os._exit(0)
    """)
    with looked_at(start, program, still=False) as pid:
        until(lambda: examine(pid).verdict not in ("none", "unknown"))
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "has it and waits for the import lock; MainThread has that" in found.cause
    assert not found.origin.forked


CROSSED = """
mine, theirs = threading.Event(), threading.Event()
def crosses(first, second):
    with second:
        theirs.set()
        mine.wait()
        with first: pass
def main(first, second):
    thread(crosses, first, second)
    with first:
        theirs.wait()
        mine.set()
        tell(os.getpid())
        with second: pass
{beside}
main(threading.{kind}(), threading.{kind}())
"""


def test_two_locks_taken_in_different_orders(start: Start) -> None:
    with looked_at(start, CROSSED.format(kind="RLock", beside="thread(time.sleep, 1000)")) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "MainThread waits for the lock 'second'" in found.cause
    assert "has it and waits for the lock 'first'; MainThread has that" in found.cause
    assert "the same order" in found.advice and "fork" not in found.advice


def test_locks_without_an_owner_in_a_process_where_nothing_else_runs(start: Start) -> None:
    with looked_at(start, CROSSED.format(kind="Lock", beside="")) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("likely", "closed-world")
    assert "all 2 threads wait so" in found.cause
    assert "the same order" in found.advice


def test_a_lock_without_an_owner_is_not_called_innocent(start: Start) -> None:
    """Another thread runs, and might let go of it; who has it nobody can tell."""
    with looked_at(start, CROSSED.format(kind="Lock", beside="thread(time.sleep, 1000)")) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("unknown", None)
    assert "the lock does not say who has it" in found.cause and "not a deadlock" not in found.cause


def test_a_thread_that_is_joined_by_the_one_whose_lock_it_waits_for(start: Start) -> None:
    program = """
    lock = threading.RLock()
    waiting = threading.Event()
    def waits():
        waiting.set()
        with lock: pass
    with lock:
        thread(time.sleep, 1000)
        joined = thread(waits)
        waiting.wait()
        tell(os.getpid())
        joined.join()
    """
    with looked_at(start, program) as pid:
        until(lambda: examine(pid).verdict != "none")
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "MainThread waits for another thread to end" in found.cause
    assert "it is thread" in found.cause and "MainThread has that" in found.cause


def test_behind_a_thread_that_waits_for_ever(start: Start) -> None:
    """The main thread's lock is held by a thread of its own; that one waits for a lock of a thread that vanished."""
    program = """
    lost, own = threading.RLock(), threading.RLock()
    hold_among_others(lost)
    def waits():
        taken = threading.Event()
        def holds_one():
            with own:
                taken.set()
                with lost: pass
        thread(holds_one)
        taken.wait()
        with own: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        until(lambda: examine(pid).verdict not in ("none", "unknown"))
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner")
    assert "has it and waits for the recursive lock" in found.cause and "for ever" in found.cause
    assert "that this process does not have" in found.cause


# ----------------------------------------------------------------------------------------------------------------------
# What is not known is said


def test_a_lock_of_a_thread_that_only_the_grandparent_had(start: Start) -> None:
    program = """
    lock = threading.Lock()
    hold(lock)
    if not os.fork():
        def waits():
            with lock: pass
        child(waits)
    time.sleep(1000)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "closed-world")
    assert "a process that it descends from had 1 thread more at the fork" in found.cause


def test_a_partner_that_may_have_been_left_behind(start: Start) -> None:
    """A thread of the child runs, and nothing shows whether it is the one that is waited for."""
    program = """
    barrier = threading.Barrier(2)
    thread(time.sleep, 1000)
    def waits():
        thread(time.sleep, 1000)
        barrier.wait()
    child(waits)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "unknown"
    assert "or one that the fork left behind, is not seen" in found.cause


NAMES = {
    "the lock 'LOCK' of module app.db": "db.query()",
    "the recursive lock 'REENTRANT' of module app.db": "db.again()",
    "the lock 'guard' of a class of module app.db": "db.Db().save()",
    "the lock 'inner'": "db.enclosed()",
}


@pytest.mark.parametrize("name", NAMES)
def test_locks_are_called_by_their_names(start: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "db.py").write_text(
        dedent("""
        import threading
        LOCK, REENTRANT, inner = threading.Lock(), threading.RLock(), threading.Lock()
        class Db:
            guard = threading.Lock()
            def save(self):
                with Db.guard: pass
        def query():
            with LOCK: pass
        def again():
            with REENTRANT: pass
        def encloses(inner):
            def takes():
                with inner: pass
            return takes
        enclosed, locks = encloses(inner), [LOCK, REENTRANT, inner, Db.guard]
        del inner
        """)
    )
    program = f"""
    sys.path.insert(0, {str(tmp_path)!r})
    from app import db
    from app.db import LOCK, REENTRANT
    for lock in db.locks: hold(lock)
    child(lambda: {NAMES[name]})
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.threads[0].does == f"waits for {name}"


def test_a_process_that_is_stopped(start: Start) -> None:
    program = """
    lock = threading.RLock()
    hold(lock)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: examine(pid).verdict == "unknown")
        found = examine(pid)
    assert "is stopped by a signal or a debugger" in found.cause
    assert f"kill -CONT {pid}" in found.cause
