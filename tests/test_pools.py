"""Native threads: that they are named by their library whatever they do, told once, and put no fork at risk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from forking import program
from watching import watched

from forkproof import catalogue, model
from forkproof.evidence import pools

SOURCE = """
#define _GNU_SOURCE
#include <pthread.h>
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static volatile int spinning;
void wait_here(void) { pthread_mutex_lock(&mutex); for (;;) pthread_cond_wait(&never, &mutex); }
static void *idle(void *unused) { wait_here(); return unused; }
static void *spin(void *unused) { spinning = 1; while (spinning) {} return unused; }
static void begin(void *(*run)(void *), const char *name)
{
    pthread_t thread;
    pthread_create(&thread, 0, run, 0);
    if (name) pthread_setname_np(thread, name);
}
void start_idle(const char *name) { begin(idle, name); }
void start_spinning(void) { begin(spin, 0); while (!spinning) {} }
void stop_spinning(void) { spinning = 0; }
/* Threads in every child, whose stacks are those that the vanished threads had; and before anybody else's handler. */
static void *write_all_over(void *barrier)
{
    volatile char stack[1 << 18];
    for (unsigned i = 0; i < sizeof(stack); i++) stack[i] = 0x41;
    pthread_barrier_wait(barrier);
    wait_here();
    return 0;
}
static void begin_in_child(void)
{
    static pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, 0, 9);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, write_all_over, &barrier);
    }
    pthread_barrier_wait(&barrier);
}
void start_in_children(void) { pthread_atfork(0, 0, begin_in_child); }
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with threads of its own, of which no catalogue knows."""
    compiler = shutil.which("cc") or shutil.which((sysconfig.get_config_var("CC") or "gcc").split()[0])
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("pool")
    (folder / "pool.c").write_text(SOURCE)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-pthread", "-o", folder / "libodd.so", folder / "pool.c"],
        check=True,
    )
    return folder / "libodd.so"


NAMED = """
def named(what):
    "Return once a native thread is where it will stay."
    until(lambda: any(what in hazard.what for hazard in forkproof.assess().hazards), 30)
"""


def told(body: str, library: Path | str, run: Run, tmp_path: Path) -> list[list[dict[str, Any]]]:
    """The native pools of each fork; the program forks by `forked`, and has the library as `odd`."""
    file = tmp_path / "events.jsonl"
    head = f"import ctypes\nodd = ctypes.PyDLL({str(library)!r})\n" if library else ""
    head += NAMED
    tail = "\nos._exit(0)\n"
    run(
        "-c",
        program(head + body + tail, install=f"forkproof.install('observe', warn=True, events={str(file)!r})"),
    )
    forks = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for line in forks:
        model.event_from_json(line)
    forks = [line for line in forks if line["event"] == "fork"]
    assert {fork["risk"] for fork in forks} == {"none"}
    return [[h for h in fork["hazards"] if h["kind"] == "native-pool"] for fork in forks]


def test_threads_of_a_library_are_told_once(library: Path, run: Run, tmp_path: Path) -> None:
    body = "odd.start_idle(None); odd.start_idle(None)\nnamed('libodd.so: 2')\nfor _ in range(3): forked(int)"
    (hazard,), second, third = told(body, library, run, tmp_path)
    assert second == third == []
    assert "libodd.so: 2 native threads" in hazard["what"]
    assert (hazard["certainty"], hazard["cleared"], hazard["thread"]) == ("possible", False, None)
    assert "libodd.so" in hazard["advice"]


def test_a_thread_that_is_running_is_named_by_where_it_began(library: Path, run: Run, tmp_path: Path) -> None:
    body = "odd.start_spinning(); forked(int); odd.stop_spinning()"
    if not catalogue.platform_here().endswith("-gnu"):
        pytest.skip("only glibc tells the kernel where a thread's control block is")
    ((hazard,),) = told(body, library, run, tmp_path)
    assert "libodd.so: 1 native thread" in hazard["what"]


def test_beside_python_threads(library: Path, run: Run, tmp_path: Path) -> None:
    body = """
gate = threading.Event()
for _ in range(5): thread(gate.wait)
odd.start_idle(b"oddly")
named("named oddly")
forked(int)
"""
    ((hazard,),) = told(body, library, run, tmp_path)
    assert hazard["what"].endswith("libodd.so: 1 native thread named oddly")


def test_what_starts_later_is_told_then(library: Path, run: Run, tmp_path: Path) -> None:
    body = """
import faulthandler
forked(int)
odd.start_idle(None); named("libodd.so"); forked(int); forked(int)
faulthandler.dump_traceback_later(100); named("faulthandler"); forked(int); forked(int)
"""
    none, (first,), again, (second,), last = told(body, library, run, tmp_path)
    assert none == again == last == []
    assert "libodd.so" in first["what"] and "faulthandler" in second["what"]


WATCHDOG = """
import faulthandler, json, os, signal, sys, forkproof
forkproof.install({policy!r}, warn=False, events={file!r})
faulthandler.dump_traceback_later(1000)
def until_asleep():
    "The watchdog is where 3.11 can tell which lock it has."
    while not any("faulthandler" in hazard.what for hazard in forkproof.assess().hazards):
        pass
def child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        body()
        os._exit(0)
    return os.waitpid(pid, 0)[1]
until_asleep()
"""


def test_the_watchdog_of_faulthandler_is_mended_in_the_child(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    body = """
def start_anew():
    faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(1000)
    assert child(faulthandler.cancel_dump_traceback_later) == 0  # once known it needs no look
assert [child(start_anew), child(lambda: sys.exit(0))] == [0, 0]  # the end of the interpreter cancels as well
os.write(1, b"well")
"""
    assert run("-c", WATCHDOG.format(policy="wait", file=str(file)) + body).stdout == "well"
    born = [e for e in map(json.loads, file.read_text("utf-8").splitlines()) if e["event"] == "born"]
    assert len(born) == 3 and all("watchdog" in text for e in born for text in e["repaired"])


def test_the_parent_keeps_its_watchdog(run: Run, tmp_path: Path) -> None:
    body = """
assert child(lambda: None) == 0
with open({written!r}, "w+") as file:
    faulthandler.dump_traceback_later(0.05, file=file)
    child(lambda: None)
    while not os.path.getsize({written!r}):
        pass
faulthandler.cancel_dump_traceback_later()
os.write(1, b"well")
"""
    body = body.format(written=str(tmp_path / "dump"))
    file = tmp_path / "events.jsonl"
    assert run("-c", WATCHDOG.format(policy="wait", file=str(file)) + body).stdout == "well"


def test_observe_leaves_the_watchdogs_lock_as_it_was(run: Run, tmp_path: Path) -> None:
    body = """
def hang():
    signal.alarm(2)
    faulthandler.cancel_dump_traceback_later()
assert os.WTERMSIG(child(hang)) == signal.SIGALRM
os.write(1, b"well")
"""
    file = tmp_path / "events.jsonl"
    assert run("-c", WATCHDOG.format(policy="observe", file=str(file)) + body).stdout == "well"
    assert not any(json.loads(line).get("repaired") for line in file.read_text("utf-8").splitlines())


@pytest.mark.parametrize("policy", ["observe", "wait"])
def test_a_library_may_start_threads_in_the_child_where_the_vanished_ones_had_their_stacks(
    library: Path, run: Run, policy: str
) -> None:
    body = f"""
import ctypes, os, signal
ctypes.CDLL({str(library)!r}).start_in_children()
import forkproof
from concurrent.futures import ThreadPoolExecutor
forkproof.install({policy!r}, warn=False)
with ThreadPoolExecutor(6) as pool:
    print(sum(pool.map(lambda n: n, range(50))))
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            if {policy!r} == "wait":
                assert pool.submit(int, "7").result() == 7
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
"""
    ended = run("-c", body)
    assert (ended.status, ended.stdout) == (0, "1225\n"), ended.stderr


def test_a_harmless_pool_is_not_told(library: Path, run: Run, tmp_path: Path) -> None:
    body = "odd.start_idle(b'jemalloc_bg_thd'); time.sleep(0.1); forked(int)"
    assert told(body, library, run, tmp_path) == [[]]


def test_a_program_without_native_threads_tells_none(run: Run, tmp_path: Path) -> None:
    body = "gate = threading.Event()\nfor _ in range(5): thread(gate.wait)\nfor _ in range(3): forked(int)"
    assert told(body, "", run, tmp_path) == [[], [], []]


def test_a_child_knows_the_pool_it_hangs_in(library: Path, run: Run) -> None:
    """A thread of the child that stands in the library whose threads are gone; and one that does not."""
    body = f"""
import ctypes
from forkproof import _native
from forkproof.evidence import pools
odd = ctypes.CDLL({str(library)!r})
odd.start_idle(None)
time.sleep(0.1)
def child():
    gate = threading.Event()
    hangs, well = thread(odd.wait_here), thread(gate.wait)
    until(lambda: any("libodd" in path for path in _native.libraries_of_thread(hangs.native_id)))
    assert "libodd.so" in pools.explains(hangs.native_id)["what"]
    assert pools.explains(well.native_id) is None
for _ in range(2):
    print(forked(child))
os._exit(0) if not sys.stdout.flush() else None
"""
    for policy in ("observe", "wait"):
        install = f"forkproof.install({policy!r}, warn=False)"
        assert run("-c", program(body, install=install)).stdout == "0\n0\n"


def test_a_child_that_waits_in_a_library_whose_threads_are_gone(
    library: Path, run: Run, tmp_path: Path
) -> None:
    """Likely; not where a thread of the child may be at work in that library, and not where it waits for something else."""
    head = f"""
import ctypes
odd = ctypes.CDLL({str(library)!r})
odd.start_idle(None)
until(lambda: any("libodd.so: 1" in hazard.what for hazard in forkproof.assess().hazards), 30)
"""
    body = """
    def spins():
        odd.start_spinning()
        odd.wait_here()
    def has_a_pool():
        odd.start_idle(None)
        odd.wait_here()
    def elsewhere():
        ctypes.CDLL(None).pause()
    def watches(pid):
        return "forkproof-watch\\n" in [open(f"/proc/{pid}/task/{i}/comm").read() for i in os.listdir(f"/proc/{pid}/task")]
    pids = [child_of(child) for child in (odd.wait_here, spins, has_a_pool, elsewhere)]
    until(lambda: all(map(watches, pids)), 30)
    until(lambda: events("hang"), 30)
    time.sleep(1)
    for pid in pids: end(pid)
    (event,) = events("hang")
    assert event["pid"] == pids[0]
    print(event["verdict"], event["proof"], event["waits_for"]["kind"], event["waits_for"]["what"], sep="|")
    print(event["hazard"]["what"])
    leave()
    """
    ended = run("-c", watched(tmp_path / "events", head, body), limit=60)
    assert ended.stdout.splitlines()[:1] == ["likely|None|native-pool|another thread, in native code"], (
        ended.stdout + ended.stderr
    )
    assert "libodd.so: 1 native thread" in ended.stdout


def test_native_threads_that_come_and_go_while_the_process_forks(library: Path, run: Run) -> None:
    body = f"""
import ctypes, _thread
libc = ctypes.CDLL(None)
odd = ctypes.PyDLL({str(library)!r})
create, cancel, join = libc.pthread_create, libc.pthread_detach, libc.pthread_join
usleep = ctypes.cast(libc.usleep, ctypes.c_void_p)
def churn():
    while True:
        thread = ctypes.c_ulong()
        create(ctypes.byref(thread), None, usleep, ctypes.c_void_p(300))
        join(thread, None)
for _ in range(2): thread(churn)
print([forked(int) for _ in range(100)] == [0] * 100, flush=True)
os._exit(0)
"""
    ended = run("-c", program(body, install="forkproof.install(warn=False)"), limit=60)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_threads_of_pythons_own_that_begin_or_end_are_no_pool(run: Run) -> None:
    body = """
import _thread
def churn():
    while True: _thread.start_new_thread(int, ())
for _ in range(2): thread(churn)
seen = [h for _ in range(500) for h in forkproof.assess().hazards if h.kind == "native-pool"]
print(seen, flush=True)
os._exit(0)
"""
    assert run("-c", program(body), limit=60).stdout == "[]\n"


def test_each_pool_says_how_it_is_known_and_what_to_do() -> None:
    for pool in catalogue.all_pools():
        assert pool.what and pool.child and pool.source and (pool.libraries or pool.threads)
        assert pool.harmless or pool.advice


def test_the_innermost_library_that_is_not_the_systems_is_the_one() -> None:
    assert pools.library(["/lib/libc.so.6", "/x/a.libs/libgomp-1.so", "/x/b.so"]) == "/x/a.libs/libgomp-1.so"
    assert pools.library(["/lib/libc.so.6", "/usr/lib/libpython3.11.so.1.0"]) == pools.PYTHON
    assert pools.library(["/lib/libc.so.6", ""]) == pools.PYTHON
    assert pools.library(["/lib/libc.so.6"]) is None
    assert pools.library([]) is None
