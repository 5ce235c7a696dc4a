"""Locks that other threads contend for, at forks that come at any moment: no child may find one held."""

from __future__ import annotations

import pytest
from conftest import Run
from forking import program

CONTEND = """
    def work(lock):
        while True:
            with lock:
                sum(range(30))

    for _ in range(3):
        for lock in locks:
            thread(work, lock)
    results = {forked(lambda: must_be_free(*inner)) for _ in range(%d)}
    print(results)
"""


@pytest.mark.parametrize(
    ("locks", "inner"),
    [
        ("[threading.Lock()]", "locks"),
        ("[threading.RLock()]", "locks"),
        ("[threading.Lock(), threading.Lock()]", "locks"),
        ("[threading.Condition()]", "[locks[0]._lock]"),
        ("[threading.Semaphore(1)]", "locks"),
    ],
)
def test_threads_that_only_ever_stand_at_the_acquiring_instruction(run: Run, locks: str, inner: str) -> None:
    ended = run("-c", program(f"locks = {locks}\ninner = {inner}\n") + _dedent(CONTEND % 60), limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_the_same_program_hangs_without_forkproof(run: Run) -> None:
    """The control of the test above: if this one passed a child, that one would prove nothing."""
    body = program("locks = [threading.Lock()]\ninner = locks\n", install="") + _dedent(CONTEND % 60)
    ended = run("-c", body.replace("timeout=5", "timeout=0.3"), limit=120)
    assert "1" in ended.stdout, ended.stderr


def _dedent(text: str) -> str:
    from textwrap import dedent

    return dedent(text)


GENERATORS = """
import asyncio
lock = threading.Lock()
def generator():
    with lock:
        for number in range(3):
            time.sleep(0.002)
            yield number
def delegating():
    yield from generator()
async def coroutine():
    with lock:
        await asyncio.sleep(0.002)
async def under_a_loop():
    while True:
        await coroutine()
def work():
    while True:
        for each in {iterable}:
            pass
thread({target})
time.sleep(0.05)
print({{forked(lambda: must_be_free(lock)) for _ in range(10)}})
"""


@pytest.mark.parametrize(
    "iterable", ["generator()", "delegating()", "map(str, generator())", "zip(generator(), range(9))"]
)
def test_a_lock_of_a_generator_whose_loop_is_stopped_between_two_items(run: Run, iterable: str) -> None:
    """The fork takes the lock by stopping its user, for which the head of the loop would be the first place."""
    text = program("") + GENERATORS.format(iterable=iterable, target="work")
    ended = run("-c", text, limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_lock_of_a_coroutine_that_waits(run: Run) -> None:
    text = program("") + GENERATORS.format(iterable="()", target="asyncio.run, under_a_loop()")
    ended = run("-c", text, limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_queue_with_busy_producers_and_consumers(run: Run) -> None:
    body = """
        import queue
        jobs = queue.Queue(maxsize=5)
        def produce():
            while True: jobs.put(1)
        def consume():
            while True: jobs.get()
        for f in (produce, produce, consume, consume): thread(f)
        def child():
            fresh = []
            while not jobs.empty(): jobs.get(timeout=5)
            jobs.put("mine", timeout=5)
            assert jobs.get(timeout=5) == "mine"
        print({forked(child) for _ in range(100)})
    """
    ended = run("-c", program(body), limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_two_threads_that_take_two_locks_in_opposite_order(run: Run) -> None:
    body = """
        a, b = threading.Lock(), threading.Lock()
        gate = threading.Lock()          # keeps the two from deadlocking each other
        def one():
            while True:
                with gate:
                    with a:
                        with b: time.sleep(0.0001)
        def two():
            while True:
                with gate:
                    with b:
                        with a: time.sleep(0.0001)
        thread(one); thread(two)
        print({forked(lambda: must_be_free(gate, a, b)) for _ in range(100)})
    """
    # Warned is who could not be waited for; a second would do, were it not for machines with many more threads than processors.
    ended = run("-c", program(body, install="forkproof.install(wait=20)"), limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_lock_in_a_bound_method_variable(run: Run) -> None:
    body = """
        condition = threading.Condition(threading.Lock())
        def work():
            take, give = condition.acquire, condition.release
            while True:
                take()
                try:
                    pass
                finally:
                    give()
        thread(work); thread(work)
        print({forked(lambda: must_be_free(condition._lock)) for _ in range(60)})
    """
    ended = run("-c", program(body), limit=120)
    assert ended.stdout == "{0}\n", ended.stderr


HELD_FOR_EVER = """
    mine = threading.Lock()
    def hold():
        with mine:
            held.set()
            threading.Event().wait()
    held = threading.Event()
    thread(hold)
    held.wait()
"""


def test_a_lock_that_never_comes_is_waited_for_once(run: Run) -> None:
    body = (
        HELD_FOR_EVER
        + """
    def timed():
        start = time.monotonic()
        pid = os.fork()
        if pid == 0: os._exit(0)
        took = time.monotonic() - start
        os.waitpid(pid, 0)
        return took
    first, second, third = timed(), timed(), timed()
    print(first >= 3, second < first / 2, third < first / 2)
    """
    )
    ended = run("-c", program(body, install="forkproof.install(wait=3, warn=False)"))
    assert ended.stdout == "True True True\n", ended.stderr


@pytest.mark.parametrize(("repair", "status"), [(True, 0), (False, 1)])
def test_the_child_gets_it_free_only_with_repair(run: Run, repair: bool, status: int) -> None:
    body = HELD_FOR_EVER + "\n    print(forked(lambda: must_be_free(mine)))\n"
    install = f"forkproof.install(wait=0.1, repair={repair}, warn=False)"
    ended = run("-c", program(body, install=install).replace("timeout=5", "timeout=0.5"))
    assert ended.stdout == f"{status}\n", ended.stderr


def test_a_lock_that_the_wait_saw_in_other_hands_is_reset(run: Run) -> None:
    """At the fork no frame shows who has it, and one waits for it; that it is not the forking thread's was seen before."""
    body = """
        import forkproof._native, importlib.util
        lock, held, hidden = threading.Lock(), threading.Event(), threading.Event()
        def keep(): lock.acquire()
        def first():
            with lock:
                held.set()
                until(lambda: sys.getswitchinterval() < 0.001)       # the fork waits, and has looked
            keep()
            hidden.set()
            threading.Event().wait()
        def second():
            hidden.wait()
            with lock: pass
        def is_wanted(): return any(s[7] is lock and s[2] == 1 for s in forkproof._native.look())
        importing = threading.Event()
        class Slow:                                                  # while there is an import the fork owns nothing
            def find_spec(self, name, path, target=None):
                return importlib.util.spec_from_loader(name, self) if name == "slow" else None
            def create_module(self, spec): return None
            def exec_module(self, module):
                importing.set()
                until(is_wanted)
        sys.meta_path.insert(0, Slow())
        def third(): import slow
        thread(first); held.wait()
        thread(second); thread(third); importing.wait()
        print(forked(lambda: must_be_free(lock)))
    """
    ended = run("-c", program(body, install="forkproof.install(warn=False, wait=3)"), limit=60)
    assert ended.stdout == "0\n", ended.stderr


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_a_lock_that_the_forking_thread_may_have_is_not_reset(run: Run, wait: float) -> None:
    """It has, and no frame shows it; reset, the child's release would raise."""
    body = """
        mine = threading.Lock()
        def keep(): mine.acquire()
        keep()
        def want():
            with mine: pass
        thread(want)
        until(lambda: any(s[7] is mine for s in forkproof._native.look()))
        def child():
            assert not mine.acquire(timeout=0)
            mine.release()
            must_be_free(mine)
        print(forked(child))
    """
    install = f"import forkproof._native; forkproof.install(warn=False, wait={wait})"
    ended = run("-c", program(body, install=install))
    assert ended.stdout == "0\n", ended.stderr


def test_observe_leaves_the_lock_as_it_is(run: Run) -> None:
    body = HELD_FOR_EVER + "\n    print(forked(lambda: must_be_free(mine)))\n"
    install = 'forkproof.install(policy="observe", warn=False)'
    ended = run("-c", program(body, install=install).replace("timeout=5", "timeout=0.5"))
    assert ended.stdout == "1\n", ended.stderr


def test_a_lock_of_the_forking_thread_stays_its_own_and_costs_no_wait(run: Run) -> None:
    body = """
        mine = threading.Lock()
        def want():
            with mine: pass
        def child():
            mine.release()      # raises if it has been reset
            must_be_free(mine)
        start = time.monotonic()
        with mine:
            waiting = thread(want)
            until(lambda: any(s[7] is mine for s in forkproof._native.look()))
            status = forked(child)
        print(status, time.monotonic() - start < 20)
        waiting.join(5)
        print(waiting.is_alive())
    """
    ended = run(
        "-c", program(body, install="import forkproof._native; forkproof.install(warn=False, wait=30)")
    )
    assert ended.stdout == "0 True\nFalse\n", ended.stderr


def test_what_a_thread_has_that_waits_for_the_forking_one_is_not_waited_for(run: Run) -> None:
    body = """
        mine, other = threading.Lock(), threading.Lock()
        def want():
            with other:
                with mine: pass
        start = time.monotonic()
        with mine:
            thread(want)
            until(lambda: any(s[7] is mine for s in forkproof._native.look()))
            status = forked(lambda: must_be_free(other))
        print(status, time.monotonic() - start < 20)
    """
    ended = run(
        "-c", program(body, install="import forkproof._native; forkproof.install(warn=False, wait=30)")
    )
    assert ended.stdout == "0 True\n", ended.stderr


def test_an_rlock_taken_twice_by_the_forking_thread_is_still_so_in_the_child(run: Run) -> None:
    body = """
        mine = threading.RLock()
        def work():
            while True:
                with mine: pass
        thread(work); thread(work)
        def child():
            mine.release(); mine.release()
            taken = []
            def take():
                with mine: taken.append(1)
            t = thread(take); t.join(5)
            assert taken
        results = set()
        for _ in range(30):
            with mine:
                with mine:
                    results.add(forked(child))
        print(results)
    """
    ended = run("-c", program(body), limit=60)
    assert ended.stdout == "{0}\n", ended.stderr


def test_another_librarys_before_callback_may_hold_the_lock(run: Run) -> None:
    """As concurrent.futures does: locks that no frame shows, held by the forking thread for the time of the fork."""
    body = """
        shown, hidden = threading.Lock(), threading.Lock()
        def take(): hidden.acquire()
        os.register_at_fork(before=shown.acquire, after_in_child=shown.release, after_in_parent=shown.release)
        os.register_at_fork(before=take, after_in_child=hidden.release, after_in_parent=hidden.release)
        def work(lock):
            while True:
                with lock: time.sleep(0.0005)
        for lock in (shown, hidden): thread(work, lock)
        start = time.monotonic()
        results = {forked(lambda: must_be_free(shown, hidden)) for _ in range(20)}
        print(results, time.monotonic() - start < 30)
    """
    ended = run("-c", program(body, install="forkproof.install(warn=False, wait=40)"), limit=90)
    assert ended.stdout == "{0} True\n", ended.stderr


def test_a_signal_given_through_a_lock_is_not_lost(run: Run) -> None:
    """One thread takes, another releases: such a lock must not be competed for."""
    body = """
        signal, got, n = threading.Lock(), [], 60
        signal.acquire()
        def wait():
            for _ in range(n):
                got.append(signal.acquire(timeout=10))
        waiter = thread(wait)
        for k in range(n):
            until(lambda: len(got) == k)
            pid = os.fork()
            if pid == 0: os._exit(0)
            signal.release()
            os.waitpid(pid, 0)
        waiter.join(20)
        print(len(got), all(got))
    """
    ended = run("-c", program(body), limit=60)
    assert ended.stdout == "60 True\n", ended.stderr


def test_a_waiter_that_vanished_does_not_take_a_living_ones_notification(run: Run) -> None:
    body = """
        import queue
        jobs = queue.Queue()
        for _ in range(3): thread(jobs.get)
        until(lambda: len(jobs.not_empty._waiters) == 3)
        def child():
            assert len(jobs.not_empty._waiters) == 0
            got = []
            consumer = thread(lambda: got.append(jobs.get()))
            until(lambda: len(jobs.not_empty._waiters) == 1)
            jobs.put("job")
            consumer.join(5)
            assert got == ["job"], got
        print(forked(child))
    """
    ended = run("-c", program(body))
    assert ended.stdout == "0\n", ended.stderr


def test_the_forking_threads_own_wait_is_kept(run: Run) -> None:
    """A fork from a signal handler that runs inside Condition.wait."""
    body = """
        import signal
        condition = threading.Condition()
        statuses = []
        def handler(*_):
            statuses.append(forked(lambda: None if len(condition._waiters) == 1 else 1/0))
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with condition:
            condition.wait(0.5)
        print(statuses)
    """
    ended = run("-c", program(body))
    assert ended.stdout == "[0]\n", ended.stderr


SHARED = """
import multiprocessing

lock, taken, told = multiprocessing.get_context("fork").RLock(), threading.Event(), threading.Event()

def hold():
    with lock:
        taken.set()
        told.wait()

def take_once():
    given.read(1)
    assert lock.acquire(timeout=30)
    lock.release()

holder = threading.Thread(target=hold)
holder.start()
taken.wait()
ends = os.pipe()
given, give = open(ends[0], "rb", 0), open(ends[1], "wb", 0)
child = os.fork()
if not child:
    take_once()
    os._exit(0)
told.set()
holder.join()
give.write(b"x")
os.waitpid(child, 0)
print(lock.acquire(timeout=1))
"""


def test_a_lock_that_processes_share_is_given_back_by_the_child_that_took_it(run: Run) -> None:
    """At the fork another thread has it, and how often is counted in the child's copy of the object too."""
    ended = run("-c", program(SHARED))
    assert ended.stdout == "True\n", ended.stderr


def test_the_same_lock_stays_taken_without_forkproof(run: Run) -> None:
    ended = run("-c", program(SHARED, install="pass"))
    assert ended.stdout == "False\n", ended.stderr


def test_a_lock_that_processes_share_stays_the_forking_threads_in_the_child(run: Run) -> None:
    body = """
    import multiprocessing
    lock = multiprocessing.get_context("fork").RLock()
    other, end = threading.Thread(target=lambda: end.wait()), threading.Event()
    other.start()
    with lock:
        child = os.fork()
        if not child:
            os._exit(not (lock._semlock._is_mine() and lock._semlock._count() == 1))
        end.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    ended = run("-c", program(body))
    assert ended.status == 0, ended.stderr


def test_a_permit_of_a_vanished_thread_comes_back(run: Run) -> None:
    body = """
        one = threading.BoundedSemaphore(2)
        def hold():
            with one:
                threading.Event().wait()
        thread(hold); thread(hold)
        until(lambda: one._value == 0)
        def child():
            assert one.acquire(timeout=5) and one.acquire(timeout=5)
            assert not one.acquire(timeout=0.05)
        print(forked(child), one._value)
    """
    ended = run("-c", program(body, install="forkproof.install(wait=0.1, warn=False)"))
    assert ended.stdout == "0 0\n", ended.stderr


def test_a_finalizer_of_a_vanished_threads_local_may_take_an_owned_lock(run: Run) -> None:
    """PyOS_AfterFork_Child runs such finalizers before any callback."""
    body = """
        lock = threading.Lock()
        class Closer:
            def __del__(self):
                with lock: pass
        def work():
            local = threading.local()
            local.closer = Closer()
            while True:
                with lock: pass
        thread(work); thread(work)
        print({forked(lambda: must_be_free(lock)) for _ in range(50)}, flush=True)
        os._exit(0)  # bare 3.14 may hang on its way out of this program: threads are stopped with the lock held
    """
    ended = run("-c", program(body), limit=60)
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_signal_handler_may_take_an_owned_lock(run: Run) -> None:
    """Signals are held while locks are owned: a handler would wait for its own thread."""
    body = """
        import signal
        lock = threading.Lock()
        handled = []
        def handler(*_):
            if lock.acquire(timeout=5):
                lock.release()
                handled.append(1)
            signal.setitimer(signal.ITIMER_REAL, 0.003)
        signal.signal(signal.SIGALRM, handler)
        def work():
            while True:
                with lock: time.sleep(0.002)
        thread(work)
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        results = {forked(lambda: signal.setitimer(signal.ITIMER_REAL, 0)) for _ in range(40)}
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        print(results, len(handled) > 3)
    """
    ended = run("-c", program(body), limit=60)
    assert ended.stdout == "{0} True\n", ended.stderr


def test_declare_safe_ends_the_waiting(run: Run) -> None:
    body = (
        HELD_FOR_EVER
        + """
    forkproof.declare_safe(mine, reason="no child uses it")
    start = time.monotonic()
    print(forked(lambda: None), time.monotonic() - start < 20, bool(forkproof.assess()))
    """
    )
    ended = run("-c", program(body, install="forkproof.install(warn=False, wait=30)"), limit=60)
    assert ended.stdout == "0 True False\n", ended.stderr
