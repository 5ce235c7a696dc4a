"""forkproof.kit: each part lives through a fork, really forked, where the bare thing does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from forking import program

EXAMPLE = Path(__file__).parent.parent / "examples" / "monitored_client"

# A program that never switches the guard on.
KIT = "import gc\nfrom forkproof import kit\n"

HELD = """
def hold(lock):
    "A thread that takes the lock and keeps it."
    taken = threading.Event()
    def keep():
        lock.acquire()
        taken.set()
        threading.Event().wait()
    thread(keep)
    taken.wait()
"""


def kit_program(body: str) -> str:
    return program(KIT + HELD + body, install="")


def test_it_needs_nothing_else_of_forkproof(run: Run) -> None:
    body = """
import sys
from forkproof import kit
print(sorted(name for name in sys.modules if name.startswith("forkproof")))
"""
    assert run("-c", body).stdout == "['forkproof', 'forkproof._errors', 'forkproof.kit']\n"


def test_it_works_without_the_extension(run: Run) -> None:
    body = """
import sys
sys.modules["forkproof._native"] = None
lock = kit.Lock()
hold(lock)
print(forked(lambda: must_be_free(lock)))
"""
    assert run("-c", kit_program(body).replace("import forkproof\n", "", 1)).stdout == "0\n"


# ----------------------------------------------------------------------------------------------------------------------
# Locks


@pytest.mark.parametrize("make", ["Lock", "RLock", "Condition"])
def test_a_lock_that_another_thread_holds_is_free_in_the_child(run: Run, make: str) -> None:
    body = f"""
lock, bare = kit.{make}(), threading.{make}()
hold(lock)
hold(bare)
def use(lock):
    with lock: pass
print(forked(lambda: use(lock)), forked(lambda: use(bare), limit=1))
"""
    assert run("-c", kit_program(body)).stdout == "0 hung\n"


def test_an_event_whose_lock_another_thread_holds_works_in_the_child(run: Run) -> None:
    body = """
event = kit.Event()
hold(event._cond)
def child():
    event.set()
    assert event.wait(5)
print(forked(child))
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_an_rlock_of_the_forking_thread_stays_its_own(run: Run) -> None:
    body = """
lock = kit.RLock()
condition = kit.Condition(lock)
def child():
    got = []
    t = threading.Thread(target=lambda: got.append(lock.acquire(timeout=0.1)))
    t.start(); t.join()
    assert got == [False], got
    lock.release()
    lock.release()
    must_be_free(lock)
with lock, condition:
    print(forked(child))
must_be_free(lock)
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_a_plain_lock_of_the_forking_thread_is_free_in_the_child(run: Run) -> None:
    """As documented: releasing it there is an error."""
    body = """
lock = kit.Lock()
with lock:
    print(forked(lambda: must_be_free(lock)), forked(lock.release))
must_be_free(lock)
"""
    assert run("-c", kit_program(body)).stdout == "0 1\n"


def test_notify_in_the_child_wakes_a_thread_of_the_child(run: Run) -> None:
    body = """
def vanish_waiting(condition):
    def wait():
        with condition:
            condition.wait()
    thread(wait)
    until(lambda: condition._waiters)
def child(condition):
    done = threading.Event()
    def wait():
        with condition:
            waiting.set()
            condition.wait()
        done.set()
    waiting = threading.Event()
    thread(wait)
    waiting.wait()
    with condition:
        condition.notify()
    assert done.wait(limit)
for condition, limit in (kit.Condition(), 20), (threading.Condition(), 1):
    vanish_waiting(condition)
    print(forked(lambda: child(condition), limit=30))
"""
    assert run("-c", kit_program(body)).stdout == "0\n1\n"


def test_a_fork_of_a_fork(run: Run) -> None:
    body = """
lock = kit.Lock()
hold(lock)
def child():
    must_be_free(lock)
    hold(lock)
    assert forked(grandchild) == 0
def grandchild():
    must_be_free(lock)
print(forked(child))
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_a_condition_needs_a_lock_that_can_be_renewed(run: Run) -> None:
    body = """
class Own:
    acquire = release = None
try:
    kit.Condition(Own())
except TypeError as error:
    print(error)
"""
    assert run("-c", kit_program(body)).stdout == "a Condition of the kit needs a Lock or an RLock, not Own\n"


def test_locks_are_held_weakly(run: Run) -> None:
    body = """
before = len(kit._locks)
made = [kit.Lock() for _ in range(1000)] + [kit.Condition() for _ in range(1000)]
assert len(kit._locks) == before + 2000
del made
print(len(kit._locks) - before)
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_forks_while_other_threads_make_and_drop_locks(run: Run) -> None:
    body = """
ending = False
counts = [0, 0]
def churn(index):
    while not ending:
        kept = [kit.Lock() for _ in range(20)]
        with kept[3]:
            counts[index] += 1
for index in range(2):
    thread(churn, index)
lock = kit.Lock()
hold(lock)
def child():
    must_be_free(lock, *(r() for r in kit._locks.copy().values() if isinstance(r(), type(lock))))
seen = list(counts)
answers = {forked(child) for _ in range(60)}
until(lambda: all(now > then for now, then in zip(counts, seen)))
ending = True
print(answers)
"""
    assert run("-c", kit_program(body), limit=120).stdout == "{0}\n"


def test_no_finalizer_meets_a_lock_that_is_not_new_yet(run: Run) -> None:
    """The collector runs at every allocation, and a cycle that uses the lock at its end is waiting for it."""
    body = """
lock = kit.Lock()
hold(lock)
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        if os.getpid() != parent:
            with lock: pass
parent = os.getpid()
os.register_at_fork(before=lambda: [Cycle() for _ in range(3)])  # after ours, so with the collector off
def child():
    assert gc.isenabled()
gc.set_threshold(1)
print(forked(child, limit=20))
gc.set_threshold(700)
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_the_collector_is_as_it_was_in_both_processes(run: Run) -> None:
    body = """
def child(wanted):
    assert gc.isenabled() == wanted
for wanted in True, False, True:
    (gc.enable if wanted else gc.disable)()
    print(forked(lambda: child(wanted)), gc.isenabled() == wanted)
"""
    assert run("-c", kit_program(body)).stdout == "0 True\n0 True\n0 True\n"


def test_the_guard_takes_a_lock_of_the_kit_for_what_it_is(run: Run) -> None:
    """Held at the fork, and no hazard: the child gets it new."""
    body = """
class Client:
    def __init__(self):
        self._lock = kit.Lock()
        self._condition = kit.Condition()
        self._bare = threading.Lock()
    def keep(self, which, taken):
        with which:
            taken.set()
            threading.Event().wait()
client = Client()
for which in client._lock, client._condition:
    thread(client.keep, which, taken := threading.Event())
    taken.wait()
print(forkproof.assess().risk)
thread(client.keep, client._bare, taken := threading.Event())
taken.wait()
print(forkproof.assess().risk)
"""
    assert run("-c", kit_program(body)).stdout == "none\ncertain\n"


# ----------------------------------------------------------------------------------------------------------------------
# Values


def test_each_process_makes_its_own_value_and_leaves_the_parents_alone(run: Run) -> None:
    body = """
class Connection:
    def __init__(self):
        self.pid = os.getpid()
    def __del__(self):
        if os.getpid() != self.pid:
            os.write(1, b"finalized in a child\\n")
value = kit.PerProcess(Connection)
assert value.made() is None
mine = value.get().pid
def child():
    assert value.made() is None
    assert value.get().pid == os.getpid() and value.get() is value.get() is value.made()
    assert forked(grandchild) == 0
    gc.collect()
def grandchild():
    assert value.get().pid == os.getpid()
    gc.collect()
print(forked(child), mine == value.get().pid == os.getpid())
"""
    assert run("-c", kit_program(body)).stdout == "0 True\n"


def test_a_child_makes_its_value_while_the_parents_was_being_made(run: Run) -> None:
    body = """
making = threading.Event()
def make():
    if os.getpid() == parent:
        making.set()
        threading.Event().wait()
    return os.getpid()
parent = os.getpid()
value = kit.PerProcess(make)
thread(value.get)
making.wait()
def child():
    assert value.get() == os.getpid()
print(forked(child))
"""
    assert run("-c", kit_program(body)).stdout == "0\n"


def test_threads_that_ask_at_once_get_the_same_value(run: Run) -> None:
    body = """
made = []
all_here = threading.Barrier(4)
value = kit.PerProcess(lambda: made.append(1) or time.sleep(0.05) or object())
got = []
def ask():
    all_here.wait()
    got.append(value.get())
threads = [thread(ask) for _ in range(4)]
for t in threads: t.join()
print(len(made), len(set(map(id, got))))
"""
    assert run("-c", kit_program(body)).stdout == "1 1\n"


# ----------------------------------------------------------------------------------------------------------------------
# Threads

MONITOR = """
class Client:
    def __init__(self):
        self.checks = 0
        self.monitor = kit.BackgroundThread(self.check, every=0.01, name="monitor")
    def check(self):
        self.checks += 1
    def works(self):
        self.monitor.start()
        seen = self.checks
        until(lambda: self.checks > seen)
client = Client()
"""


def test_a_thread_starts_on_demand_and_again_after_a_fork(run: Run) -> None:
    body = """
assert not client.monitor.is_alive()
client.works()
def child():
    assert not client.monitor.is_alive()
    assert threading.active_count() == 1
    client.monitor.stop()  # of the parent's: nothing
    client.works()
    assert forked(client.works) == 0
    client.monitor.stop()
    assert not client.monitor.is_alive()
print(forked(child), client.monitor.is_alive(), threading.active_count())
client.monitor.stop()
print(threading.active_count())
"""
    assert run("-c", kit_program(MONITOR + body)).stdout == "0 True 2\n1\n"


def test_many_calls_start_one_thread(run: Run) -> None:
    body = """
threads = [thread(client.works) for _ in range(8)]
for t in threads: t.join()
print([t.name for t in threading.enumerate()])
"""
    assert run("-c", kit_program(MONITOR + body)).stdout == "['MainThread', 'monitor']\n"


def test_forks_while_the_thread_is_being_started(run: Run) -> None:
    body = """
begun = threading.Event()
class Slow(kit._Run):
    def start(self):
        if os.getpid() == parent:
            begun.set()
            threading.Event().wait()
        super().start()
parent = os.getpid()
kit._Run = Slow
thread(client.monitor.start)
begun.wait()
print(forked(client.works))
"""
    assert run("-c", kit_program(MONITOR + body)).stdout == "0\n"


def test_the_thread_ends_with_its_object(run: Run) -> None:
    body = """
client.works()
del client
gc.collect()
until(lambda: threading.active_count() == 1)
print("ended")
"""
    assert run("-c", kit_program(MONITOR + body)).stdout == "ended\n"


def test_the_thread_can_be_woken(run: Run) -> None:
    body = """
calls = threading.Semaphore(0)
t = kit.BackgroundThread(calls.release, every=3600)
for _ in range(3):
    t.wake()
    assert calls.acquire(timeout=10)
    until(lambda: not t._run.awake.is_set())
def child():
    t.wake()
    assert calls.acquire(timeout=10)
print(forked(child))
t.stop()
print(t.is_alive())
"""
    assert run("-c", kit_program(body)).stdout == "0\nFalse\n"


def test_a_thread_that_failed_is_started_anew(run: Run) -> None:
    body = """
told, calls = [], []
threading.excepthook = lambda args: told.append(args.exc_type.__name__)
def function():
    calls.append(1)
    raise KeyError
t = kit.BackgroundThread(function)
for count in 1, 2:
    t.start()
    until(lambda: not t.is_alive())
print(told, len(calls))
"""
    assert run("-c", kit_program(body)).stdout == "['KeyError', 'KeyError'] 2\n"


# ----------------------------------------------------------------------------------------------------------------------
# Made before, used after

CLIENT = """
from forkproof import kit
class Client:
    def __init__(self):
        self._made = kit.MadeHere(self, "make a Client in each process")
    def ask(self):
        return self._made.check()
"""

USER = """
import os, sys, warnings
from client import Client
client = Client()
assert client.ask()
def use():
    print(client.ask(), flush=True)
    print(client.ask(), flush=True)
if os.fork():
    os.wait()
    use()
else:
    use()
"""


def test_an_object_of_before_the_fork_warns_once_at_the_line_that_uses_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "user.py").write_text(USER)
    ended = run(tmp_path / "user.py")
    assert ended.stdout == "False\nFalse\nTrue\nTrue\n"
    warned = [line for line in ended.stderr.splitlines() if "Warning" in line and "Deprecation" not in line]
    assert len(warned) == 1, ended.stderr
    assert warned[0].startswith(f"{tmp_path}/user.py:7: UsedAfterForkWarning: Client was made in process ")
    assert f" at {tmp_path}/user.py:4, and process " in warned[0]
    assert warned[0].endswith(", forked since, uses it; make a Client in each process")


def test_the_warning_can_be_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "user.py").write_text(USER)
    body = (
        "import warnings, forkproof.kit\nwarnings.simplefilter('error', forkproof.kit.UsedAfterForkWarning)\n"
    )
    (tmp_path / "user.py").write_text(body + USER)
    ended = run(tmp_path / "user.py")
    assert "forkproof.kit.UsedAfterForkWarning: Client was made" in ended.stderr
    assert ended.stdout == "True\nTrue\n"


# ----------------------------------------------------------------------------------------------------------------------
# The example


def test_the_example_hangs_as_first_written(run: Run) -> None:
    ended = run("demo.py", "hang_prone", "3", cwd=EXAMPLE, limit=120)
    assert (ended.status, ended.stdout.partition(" had")[2]) == (1, " no answer\n")


def test_the_example_with_the_kit_does_not(run: Run) -> None:
    ended = run("demo.py", "fork_proof", "60", cwd=EXAMPLE, limit=120)
    assert (ended.status, ended.stdout) == (0, "20 of 20 children had their answers\n"), ended.stderr
