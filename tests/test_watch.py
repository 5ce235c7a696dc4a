"""A child that hangs is reported, with the reason and how sure it is."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from conftest import Run
from watching import HELD, watched

import forkproof.lab as lab
from forkproof import catalogue
from forkproof.evidence import asking

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
/* What macOS and the BSDs had: one look-up at a time. A name that begins with "slow" takes its time, the others LOOKUP_SECONDS. */
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    struct timespec pause = {0, 50000000}, long_pause = {3600, 0};
    if (getenv("LOOKUP_SECONDS"))
        pause.tv_sec = atoi(getenv("LOOKUP_SECONDS"));
    pthread_mutex_lock(&one_at_a_time);
    if (node && node[0] == 's' && node[1] == 'l')
        nanosleep(&long_pause, NULL);
    nanosleep(&pause, NULL);
    int status = real(node, service, hints, result);
    pthread_mutex_unlock(&one_at_a_time);
    return status;
}
void let_go_of_lookups(void)
{
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    one_at_a_time = fresh;
}
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library for LD_PRELOAD that puts a mutex around getaddrinfo."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    built = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, folder / "shim.c", "-ldl", "-lpthread"],
        capture_output=True,
    )
    if built.returncode:
        pytest.skip(f"no C compiler here: {built.stderr.decode()}")
    return str(library)


# ----------------------------------------------------------------------------------------------------------------------
# Proven by the fork's record

WAYS = {
    "with": "with held: pass",
    "acquire": "held.acquire()",
    "try again and again": "while not held.acquire(timeout=0.01): pass",
    "through a condition": "threading.Condition(held).acquire()",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_lock_that_a_vanished_thread_held(run: Run, tmp_path: Path, way: str) -> None:
    body = f"""
        def child():
            {way}
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout.splitlines() == [
        "MainThread|proven|record|held-lock",
        "holder|held of <string>",
    ], ended.stdout + ended.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a lock is no semaphore of the system's there")
def test_a_lock_that_compiled_code_takes(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            all(map(type(held).acquire, (held,)))
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout.startswith("MainThread|proven|record|held-lock\nholder|"), ended.stdout + ended.stderr


def test_a_catalogued_lock_of_a_library_that_has_just_been_imported(run: Run, tmp_path: Path) -> None:
    body = """
        import types
        from forkproof import catalogue, guard
        facts = dict(path="late.lock", distribution="late", what="its lock", source="", advice="")
        guard._settings.locks.append(catalogue.Lock(facts))
        guard._refresh()
        late = sys.modules["late"] = types.ModuleType("late")
        late.lock, taken = threading.Lock(), threading.Event()
        source = "def each(*calls): list(map(lambda call: call(), calls))"
        exec(compile(source, "/late/__init__.py", "exec"), vars(late))
        thread(late.each, late.lock.acquire, taken.set, lambda: time.sleep(3600))
        taken.wait()
        def child():
            with late.lock: pass
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout.splitlines() == [
        "MainThread|proven|closed-world|held-lock",
        "Thread-1 (each)|its lock",
    ], ended.stdout + ended.stderr


def test_an_rlock(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            with held: pass
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", HELD.replace("Lock()", "RLock()"), body))
    assert ended.stdout.startswith("MainThread|proven|record|held-lock\nholder|"), ended.stdout + ended.stderr


def test_a_thread_that_is_not_the_main_one(run: Run, tmp_path: Path) -> None:
    """The main thread goes on, busy or asleep; the other one, started in the child, is what hangs."""
    body = """
        def child():
            def need():
                with held: pass
            threading.Thread(target=need, name="needy").start()
            while True: time.sleep(0.01)
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout.startswith("needy|proven|record|held-lock\nholder|"), ended.stdout + ended.stderr


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_that_a_thread_got_between_the_look_and_the_fork(run: Run, tmp_path: Path, kind: str) -> None:
    """It gets the lock without the GIL, which the forking thread keeps; the lock does not say so yet. From 3.14 on a Lock
    does, so that there the forking thread could have it as well."""
    body = f"""
        held = threading.{kind}()
        def want():
            with held: pass
        held.acquire()
        threading.Thread(target=want, name="wanting", daemon=True).start()
        time.sleep(0.3)
        def child():
            def run():
                while True: time.sleep(0.01)
            thread(run)
            held.acquire()
        sys.setswitchinterval(1000)
        held.release()
        sum(range(3_000_000))  # until it has it
        event = hang_of(child)
        told(event)
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body))
    sure = "proven|record" if kind == "RLock" or sys.version_info < (3, 14) else "likely|None"
    assert ended.stdout.startswith(f"MainThread|{sure}|held-lock\nwanting|held"), ended.stdout + ended.stderr


def test_an_import(run: Run, tmp_path: Path) -> None:
    (tmp_path / "slowly.py").write_text(
        "import threading\nbegun.set()\nthreading.Event().wait()\n".replace("begun", "threading.begun")
    )
    body = f"""
        sys.path.insert(0, {str(tmp_path)!r})
        threading.begun = threading.Event()
        def load(): import slowly
        threading.Thread(target=load, name="loader", daemon=True).start()
        threading.begun.wait()
        told(hang_of(load))
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout.splitlines() == [
        "MainThread|proven|record|import-lock",
        "loader|import of slowly",
    ], ended.stdout + ended.stderr


def test_a_file(run: Run, tmp_path: Path) -> None:
    body = """
        out, into = os.pipe()
        file = os.fdopen(into, "wb")
        def write(): file.write(bytes(1 << 20))
        threading.Thread(target=write, name="writer", daemon=True).start()
        until(lambda: any(h.state == "holds" for h in forkproof.assess().hazards))
        told(hang_of(write))
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout.startswith("MainThread|proven|record|native-call\nwriter|Buffered"), (
        ended.stdout + ended.stderr
    )


@pytest.mark.parametrize("method", ["digest", "hexdigest", "copy"])
def test_a_hash_object_whose_data_is_being_taken_in(run: Run, tmp_path: Path, method: str) -> None:
    body = f"""
        import hashlib
        hash, data = hashlib.sha256(), bytes(50_000_000)
        def feed():
            while True: hash.update(data)
        threading.Thread(target=feed, name="feeder", daemon=True).start()
        until(lambda: any(h.what == "hash object" for h in forkproof.assess().hazards))
        told(hang_of(hash.{method}))
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout == "MainThread|likely|None|native-call\nfeeder|hash object\n", ended.stderr


def test_another_librarys_hook_that_hangs_inside_fork(run: Run, tmp_path: Path) -> None:
    body = """
        os.register_at_fork(after_in_child=lambda: held.acquire())
        event = hang_of(lambda: None)
        told(event)
        print(event["note"])
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    lines = ended.stdout.splitlines()
    assert lines[0] == "MainThread|proven|record|held-lock", ended.stdout + ended.stderr
    assert "at-fork hook" in lines[2]


def test_a_child_of_the_child_is_born_with_it_as_well(run: Run, tmp_path: Path) -> None:
    """A daemon forks twice, and at the second fork there is no other thread."""
    body = """
        def child():
            pid = os.fork()
            if pid == 0:
                with held: pass
            os.waitpid(pid, 0)
        pid = child_of(child)
        until(lambda: events("hang"))
        (event,) = events("hang")
        told(event)
        assert event["parent"] == os.getpid() and event["pid"] != pid
        end(pid)
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.status == 0, ended.stderr
    assert ended.stdout.startswith("MainThread|proven|record|held-lock\nholder|"), ended.stdout


def test_one_that_waits_for_a_thread_that_hangs(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            mine, has = threading.Lock(), threading.Event()
            def need():
                with mine:
                    has.set()
                    with held: pass
            threading.Thread(target=need, name="needy", daemon=True).start()
            has.wait()
            with mine: pass
        pid = child_of(child)
        until(lambda: len(events("hang")) == 2)
        end(pid)
        for event in sorted(events("hang"), key=lambda event: event["thread"]["name"]):
            told(event)
            print(event.get("note"))
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    lines = ended.stdout.splitlines()
    assert lines[0] == "MainThread|proven|record|held-lock", ended.stdout + ended.stderr
    assert lines[2] == "thread 'needy' of this process has it, and hangs itself"
    assert lines[3] == "needy|proven|record|held-lock"


# ----------------------------------------------------------------------------------------------------------------------
# Proven by the owner, or by there being nobody


def test_a_mutex_in_native_code(run: Run, tmp_path: Path, shim: str) -> None:
    body = """
        import encodings.idna, socket
        forkproof.install(events=FILE, policy="observe", warn=False, hang_after=0.3)  # it knows socket from now on
        def look(): socket.getaddrinfo("slow.invalid", 80)
        threading.Thread(target=look, name="resolver", daemon=True).start()
        until(lambda: any(h.what == "getaddrinfo" for h in forkproof.assess().hazards))
        time.sleep(0.1)  # from the call to the mutex
        told(hang_of(lambda: socket.getaddrinfo("fast.invalid", 80)))
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body), env={"LD_PRELOAD": shim})
    assert ended.stdout.splitlines() == [
        "MainThread|proven|owner|native-call",
        "resolver|getaddrinfo",
    ], ended.stdout + ended.stderr


def test_a_lookup_that_waits_for_a_server_is_not_one_that_waits_for_a_lock(
    run: Run, tmp_path: Path, shim: str
) -> None:
    """At the fork another thread was in the same call; but here it is not the mutex that the child stands at."""
    body = """
        import encodings.idna, socket
        forkproof.install(events=FILE, policy="observe", warn=False, hang_after=0.3)  # it knows socket from now on
        def look(name):
            try: socket.getaddrinfo(name, 80)
            except OSError: pass
        def busy():
            while not forked_once: look("fast.invalid")
        forked_once = []
        threading.Thread(target=busy, daemon=True).start()
        until(lambda: any(h.what == "getaddrinfo" for h in forkproof.assess().hazards))
        def child():
            unlock()
            look("slow.invalid")
        import ctypes
        unlock = ctypes.CDLL(None).let_go_of_lookups
        healthy(child)
        print([hazard["what"] for hazard in events("fork")[-1]["hazards"]])
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body), env={"LD_PRELOAD": shim})
    assert ended.stdout.splitlines() == ["hangs: []", "faults: []", "['getaddrinfo']"], (
        ended.stdout + ended.stderr
    )


def test_a_lookup_that_waits_for_a_live_thread_is_left_in_peace(run: Run, tmp_path: Path, shim: str) -> None:
    body = """
        import ctypes, encodings.idna, socket
        forkproof.install(events=FILE, policy="observe", warn=False, hang_after=0.3)  # it knows socket from now on
        def look(name):
            try: socket.getaddrinfo(name, 80)
            except OSError: pass
        thread(look, "slow.invalid")
        until(lambda: any(h.what == "getaddrinfo" for h in forkproof.assess().hazards))
        time.sleep(0.1)  # from the call to the mutex
        def child():
            ctypes.CDLL(None).let_go_of_lookups()
            thread(look, "slow.invalid")
            time.sleep(0.1)
            look("fast.invalid")
        healthy(child)
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", body), env={"LD_PRELOAD": shim})
    assert ended.stdout.splitlines() == ["hangs: []", "faults: []"], ended.stdout + ended.stderr


def test_idle_threads_of_the_child_do_not_hide_a_closed_world(run: Run, tmp_path: Path) -> None:
    """Nor is each of them a hang of its own."""
    body = """
        from concurrent.futures import ThreadPoolExecutor
        import queue
        def child():
            idle = ThreadPoolExecutor(2)
            for future in [idle.submit(time.sleep, 0.01) for _ in range(2)]: future.result()
            threading.Thread(target=queue.Queue().get, daemon=True).start()
            never = queue.Queue()
            never.join() if never.put(1) else never.join()
        event = hang_of(child)
        told(event)
        print(event["waits_for"]["what"])
        print(len(events("hang")))
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout.splitlines() == [
        "MainThread|proven|closed-world|condition",
        "None|None",
        "the items of a queue.Queue to be done",
        "1",
    ], ended.stdout + ended.stderr


def test_who_may_be_parked_on_purpose_is_only_likely_to_hang(run: Run, tmp_path: Path) -> None:
    """As the main thread of a program that a signal is to end."""
    body = """
        event = hang_of(lambda: threading.Event().wait())
        told(event)
        print(event["note"])
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout.splitlines() == [
        "MainThread|likely|None|condition",
        "None|None",
        "no thread here can wake it; but a program may wait so on purpose, for a signal to end it; "
        "stayed behind at the fork: thread 'holder'",
    ], ended.stdout + ended.stderr


def test_a_permit_that_a_vanished_thread_has(run: Run, tmp_path: Path) -> None:
    """Anybody may give a permit back, so while another thread runs it is likely and not proven."""
    body = """
        permits = threading.Semaphore(1)
        has = threading.Event()
        def use():
            with permits:
                has.set()
                threading.Event().wait()
        threading.Thread(target=use, name="user", daemon=True).start()
        has.wait()
        def child():
            def run():
                while True: time.sleep(0.01)
            threading.Thread(target=run, daemon=True).start()
            permits.acquire()
        told(hang_of(child))
    """
    ended = run("-c", watched(tmp_path / "events", body))
    assert ended.stdout.startswith("MainThread|likely|None|held-lock\nuser|a permit of permits"), (
        ended.stdout + ended.stderr
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is done about it


def test_it_is_said_when_it_resolves_after_all(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            def help():
                until(lambda: events("hang"))
                held.release()
            threading.Thread(target=help, daemon=True).start()
            held.acquire()
            until(lambda: events("resolved"))
        pid = child_of(child)
        assert os.waitpid(pid, 0)[1] == 0
        (hang,), (resolved,) = events("hang"), events("resolved")
        assert hang["pid"] == resolved["pid"] == pid
        assert hang["thread"] == resolved["thread"] and hang["waits_for"]["what"] == resolved["what"]
        print("once")
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == "once\n", ended.stderr


@pytest.mark.parametrize(
    "ignored", ["", "signal.signal(signal.SIGABRT, lambda *_: None)"], ids=["", "handled"]
)
def test_on_hang_kill_ends_the_child_with_sigabrt(run: Run, tmp_path: Path, ignored: str) -> None:
    body = f"""
        {ignored}
        pid = child_of(held.acquire)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(events("hang")))
    """
    options = "policy='observe', hang_after=0.3, on_hang='kill'"
    ended = run("-c", watched(tmp_path / "events", HELD, body, options=options))
    assert ended.stdout == f"{-signal.SIGABRT} 1\n", ended.stderr


def test_without_an_events_file_it_is_told_on_stderr(run: Run, tmp_path: Path) -> None:
    body = """
        forkproof.install(policy="observe", warn=False, hang_after=0.3, on_hang="kill")
        os.waitpid(child_of(held.acquire), 0)
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    lines = [line for line in ended.stderr.splitlines() if "forkproof" in line]
    assert len(lines) == 1
    assert ": thread 'MainThread' has waited 0.3 s for " in lines[0] or " has waited 0.4 s for " in lines[0]
    assert "; thread 'holder' had held" in lines[0]
    assert "and does not exist here [proven by record]. fork before the thread starts" in lines[0]


def test_the_note_on_hooks_is_only_for_hooks(run: Run, tmp_path: Path) -> None:
    """Not for a child that was born with it, whose own fork had nothing to say."""
    body = """
        forkproof.install(policy="observe", warn=False, hang_after=0.3, on_hang="kill")
        def child():
            pid = child_of(held.acquire)
            os.waitpid(pid, 0)
        os.waitpid(child_of(child), 0)
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert "[proven by record]" in ended.stderr
    assert "hook" not in ended.stderr


def test_a_descriptor_that_is_stderr_no_more_is_not_written_to(run: Run, tmp_path: Path) -> None:
    body = f"""
        forkproof.install(policy="observe", warn=False, hang_after=0.1, on_hang="kill")
        def child():
            os.close(2)
            assert os.open({str(tmp_path / "database")!r}, os.O_WRONLY | os.O_CREAT) == 2
            held.acquire()
        print(os.waitstatus_to_exitcode(os.waitpid(child_of(child), 0)[1]))
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == f"{-signal.SIGABRT}\n", ended.stderr
    assert (tmp_path / "database").read_bytes() == b""


def test_a_fault_of_the_watch_is_said_once_and_ends_it(run: Run, tmp_path: Path) -> None:
    body = """
        from forkproof import watch
        def fail(*_): raise KeyError("it")
        watch._reasons = fail
        pid = child_of(held.acquire)
        until(lambda: events("fault"))
        until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 1)
        end(pid)
        print(len(events("fault")), "KeyError" in events("fault")[0]["message"])
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == "1 True\n", ended.stderr


def test_the_record_of_the_fork_is_where_a_reader_from_outside_finds_it(run: Run, tmp_path: Path) -> None:
    body = """
        pid = child_of(lambda: time.sleep(60))
        until(lambda: any(e["pid"] == pid for e in events("born")))
        (line,) = [line for line in open(f"/proc/{pid}/maps") if "/memfd:forkproof-record" in line]
        start, end_ = (int(part, 16) for part in line.split()[0].split("-"))
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(start)
            data = memory.read(end_ - start)
        end(pid)
        assert data[:8] == b"FPRECRD1"
        record = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
        (hazard,) = record["hazards"]
        assert (record["event"], record["pid"], record["child"]) == ("fork", os.getpid(), pid)
        assert hazard["thread"]["name"] == "holder" and int(hazard["address"], 16) == id(held)
        assert not [line for line in open("/proc/self/maps") if "forkproof-record" in line]
        print("found")
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == "found\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Real programs

ARTICLE = Path(lab.__file__).parent / "programs" / "article.py"


def test_the_articles_example_under_run(run: Run, tmp_path: Path) -> None:
    """How far the thread has come by the fork is chance: now and then nothing is held, and the program ends."""
    for _ in range(10):
        ended = run(
            "-m", "forkproof", "run", "--policy", "observe", "--hang-after", "2", ARTICLE, hangs=True, limit=6
        )
        if ended.timed_out:
            break
    assert ended.timed_out
    report = ended.stderr[ended.stderr.index("hangs:") :]
    lines = report.splitlines()[1:]
    assert re.match(r"hangs:\s+MainThread has stood still for 2(\.\d)? s\n", report)
    lines = lines[lines[0].startswith("  MainThread") :]  # where the first line is a long one
    assert lines[:2] == [
        "  waits for: import of encodings.idna",
        "  proven (by record): at the fork, Thread-1 (lookup) held: import of encodings.idna",
    ]
    assert "\n  help: import encodings.idna before the thread starts" in report
    assert len(re.findall(r"at socket\.py:\d+ in getaddrinfo\n", report)) == 2


PYMONGO = """
import os, sys, threading, time
import encodings.idna, forkproof
from pymongo import MongoClient
client = MongoClient("localhost", int(sys.argv[1]))
while not any(hazard.what == "getaddrinfo" for hazard in forkproof.assess().hazards): time.sleep(0.01)
time.sleep(0.1)  # from the call to the mutex
pid = os.fork()
if pid == 0:
    try:
        client.admin.command("ping")
        os._exit(0)
    finally:
        os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_pymongo_behind_a_mutex_around_lookups(run: Run, tmp_path: Path, shim: str) -> None:
    """The main thread has a time-out and is not what hangs: a monitor thread of the child is, in getaddrinfo."""
    pytest.importorskip("pymongo")
    pytest.importorskip("secantus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "secantus", "--port", str(port), "--storage-path", ":memory:"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < end and server.poll() is None, "the server does not start"
                time.sleep(0.05)
        (tmp_path / "app.py").write_text(PYMONGO)
        options = [
            "--policy",
            "observe",
            "--hang-after",
            "2",
            "--on-hang",
            "kill",
            "--events",
            tmp_path / "events",
        ]
        ended = run(
            "-m",
            "forkproof",
            "run",
            *options,
            tmp_path / "app.py",
            str(port),
            env={"LD_PRELOAD": shim, "LOOKUP_SECONDS": "3"},
        )
    finally:
        server.kill()
        server.wait()
    hangs = [
        json.loads(line)
        for line in (tmp_path / "events").read_text().splitlines()
        if '"event":"hang"' in line
    ]
    assert ended.stdout == f"{-signal.SIGABRT}\n", ended.stderr
    assert {(e["waits_for"]["what"], e["verdict"], e["proof"]) for e in hangs} == {
        ("getaddrinfo", "proven", "owner")
    }
    assert {e["thread"]["name"] for e in hangs} == {"pymongo_server_monitor_thread"}
    assert all(e["seconds"] <= 4 for e in hangs)


def test_a_method_in_c_of_the_catalogue_is_known_by_the_object_that_it_is_of() -> None:
    wait = catalogue.Wait({"what": "it", "run": [], "polls": ["collections.deque.pop"], "pool": "None"})
    known = asking.table([wait])
    assert asking.polled(deque(), known) is wait
    assert asking.polled([], known) is None
    assert asking.polls(known) == {"collections.deque.pop"}
