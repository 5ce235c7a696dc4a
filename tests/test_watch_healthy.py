"""What stands still and is well is left in peace: each child was forked at risk and runs for three times hang_after."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from watching import HELD, watched

# Bodies of child(). Each is what an ordinary process does while it is idle, or busy for long.
HEALTHY = {
    "an idle worker, its main thread asleep": """
        work = queue.Queue()
        threading.Thread(target=work.get, daemon=True).start()
        while True: time.sleep(10)
    """,
    "an idle main thread that another one feeds": """
        work = queue.Queue()
        def feed():
            time.sleep(60)
            work.put(1)
        threading.Thread(target=feed, daemon=True).start()
        work.get()
    """,
    "a slow server": """
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        client.recv(1)
    """,
    "a server without clients": """
        socket.create_server(("127.0.0.1", 0)).accept()
    """,
    "a long computation": """
        while True: sum(range(1000))
    """,
    "a long computation that holds the GIL": """
        pow(3, 10**7) if time.monotonic() else None
        while True: sorted(range(100000))
    """,
    "an Event that a live thread will set": """
        done = threading.Event()
        def serve():
            time.sleep(60)
            done.set()
        threading.Thread(target=serve, daemon=True).start()
        done.wait()
    """,
    "an asyncio loop": """
        async def idle(): await asyncio.sleep(60)
        asyncio.run(idle())
    """,
    "an asyncio server with threads": """
        async def serve():
            await asyncio.to_thread(time.sleep, 0.01)
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            await server.serve_forever()
        asyncio.run(serve())
    """,
    "sleep": "time.sleep(60)",
    "select": "select.select([os.pipe()[0]], [], [])",
    "a question to a person": """
        os.dup2(os.pipe()[0], 0)
        input()
    """,
    "a live thread that is joined": """
        t = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        t.start()
        t.join()
    """,
    "a Condition with time-out": """
        condition = threading.Condition()
        with condition:
            while True: condition.wait(0.05)
    """,
    "a lock that a live thread holds": """
        lock, has = threading.Lock(), threading.Event()
        def work():
            with lock:
                has.set()
                time.sleep(60)
        threading.Thread(target=work, daemon=True).start()
        has.wait()
        with lock: pass
    """,
    "a lock that a live thread acquired in one function and releases in another": """
        lock, has = threading.RLock(), threading.Event()
        def take(): lock.acquire()
        def work():
            take()
            has.set()
            time.sleep(60)
            lock.release()
        threading.Thread(target=work, daemon=True).start()
        has.wait()
        with lock: pass
    """,
    "a lock that the fork left behind, mended since, and held by a live thread": """
        held._at_fork_reinit()
        time.sleep(0.2)
        has = threading.Event()
        def work():
            held.acquire()
            has.set()
            time.sleep(60)
        threading.Thread(target=work, daemon=True).start()
        has.wait()
        with held: pass
    """,
    "threads that contend for a lock": """
        lock = threading.Lock()
        def work():
            while True:
                with lock: time.sleep(0.001)
        for _ in range(4): threading.Thread(target=work, daemon=True).start()
        work()
    """,
    "two threads that play ball": """
        there, back = queue.Queue(), queue.Queue()
        def play(catch, throw):
            while True: throw.put(catch.get())
        threading.Thread(target=play, args=(there, back), daemon=True).start()
        there.put(1)
        play(back, there)
    """,
    "workers of a pool": """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(abs, [1, 2, 3])
            pool.apply(time.sleep, (60,))
    """,
    "an executor that is idle, and one that works": """
        idle, busy = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        idle.submit(int).result()
        busy.submit(time.sleep, 60).result()
    """,
    "a process that a signal ends": """
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stop.wait()
    """,
    "a child that waits for its own": """
        pid = os.fork()
        if pid == 0:
            time.sleep(1.5)
            os._exit(0)
        os.waitpid(pid, 0)
    """,
    "a slow reader of its output": """
        out, into = os.pipe()
        os.write(into, bytes(65536))
        os.fdopen(into, "wb").write(bytes(1 << 20))
    """,
}

IMPORTS = "import asyncio, queue, select, socket\nfrom concurrent.futures import ThreadPoolExecutor\n"


@pytest.mark.parametrize("child", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_child_is_left_in_peace(run: Run, tmp_path: Path, child: str) -> None:
    lines = [line for line in child.split("\n") if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    body = (
        "def child():\n" + "\n".join(f"    {line[margin:]}" for line in lines) + "\nhealthy(child)\nleave()\n"
    )
    ended = run("-c", watched(tmp_path / "events", IMPORTS, HELD, body))
    assert ended.stdout.splitlines() == ["hangs: []", "faults: []"], ended.stdout + ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# The watch itself


def test_the_program_cannot_see_it(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            time.sleep(0.5)
            assert threading.enumerate() == [threading.main_thread()] and threading.active_count() == 1
            assert list(sys._current_frames()) == [threading.get_ident()]
            print(len(os.listdir("/proc/self/task")), flush=True)
        os.waitpid(child_of(child), 0)
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == "2\n", ended.stderr


@pytest.mark.parametrize("options", ["policy='observe'", "policy='wait'"])
def test_a_child_of_a_clean_fork_has_none(run: Run, tmp_path: Path, options: str) -> None:
    body = """
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        os.waitpid(child_of(lambda: print(os.listdir("/proc/self/task") == [str(os.getpid())], flush=True)), 0)
    """
    ended = run("-c", watched(tmp_path / "events", body, options=options))
    assert ended.stdout == "True\n", ended.stderr


def test_hang_after_infinity_is_no_watch(run: Run, tmp_path: Path) -> None:
    body = """
        os.waitpid(child_of(lambda: print(len(os.listdir("/proc/self/task")), flush=True)), 0)
        leave()
    """
    ended = run(
        "-c", watched(tmp_path / "events", HELD, body, options="policy='observe', hang_after=float('inf')")
    )
    assert ended.stdout == "1\n", ended.stderr


def test_its_own_forks_are_not_warned_of(run: Run, tmp_path: Path) -> None:
    """CPython counts the threads of the system; the child has but one of the program's."""
    body = """
        def child():
            warnings.simplefilter("error")
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
        print(os.waitpid(child_of(child), 0)[1])
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.stdout == "0\n", ended.stderr
    assert ended.stderr.count("DeprecationWarning") <= 1  # of the fork at risk


def test_signals_are_for_the_program(run: Run, tmp_path: Path) -> None:
    """One for the process wakes its main thread, whatever other threads there are."""
    body = """
        def child():
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
            time.sleep(30)
        for _ in range(20):
            pid = child_of(child)
            caught = 1 << signal.SIGUSR1 - 1
            until(lambda: int(open(f"/proc/{pid}/status").read().split("SigCgt:")[1].split()[0], 16) & caught)
            os.kill(pid, signal.SIGUSR1)
            before = time.monotonic()
            assert os.waitpid(pid, 0)[1] == 0
            assert time.monotonic() - before < 5
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body))
    assert ended.status == 0, ended.stderr


def test_it_stops_when_forkproof_does(run: Run, tmp_path: Path) -> None:
    body = """
        def child():
            forkproof.uninstall()
            until(lambda: len(os.listdir("/proc/self/task")) == 1)
        print(os.waitpid(child_of(child), 0)[1])
        leave()
    """
    assert run("-c", watched(tmp_path / "events", HELD, body)).stdout == "0\n"


ENDS = {
    "by sys.exit": "sys.exit(0)",
    "by os._exit": "os._exit(0)",
    "by exec": "os.execv('/bin/true', ['true'])",
    "with threads at work": """
        def work():
            while True: sum(range(100))
        for _ in range(3): threading.Thread(target=work, daemon=True).start()
        time.sleep(0.02)
        sys.exit(0)
    """,
    "with threads that wait": """
        for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()
        time.sleep(0.05)
        sys.exit(0)
    """,
}


@pytest.mark.parametrize("how", ENDS.values(), ids=ENDS)
def test_a_child_ends_as_it_would_have(run: Run, tmp_path: Path, how: str) -> None:
    """While the watch looks every 20 ms, some of these ends fall into a look."""
    lines = [line for line in how.split("\n") if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    child = "\n".join(f"        {line[margin:]}" for line in lines)
    body = f"""
for number in range(60):
    pid = os.fork()
    if pid == 0:
        time.sleep(number % 10 * 0.003)
{child}
    status = os.waitpid(pid, 0)[1]
    assert status == 0, (number, status)
leave()
"""
    ended = run(
        "-c", watched(tmp_path / "events", HELD, body, options="policy='observe', hang_after=0.05"), limit=60
    )
    assert ended.status == 0, ended.stderr
    assert "Fatal" not in ended.stderr


def test_it_looks_without_disturbing_what_the_child_computes(run: Run, tmp_path: Path) -> None:
    """The collector is as the program left it, and no finalizer of the program's runs in the watch's thread."""
    body = """
        import gc
        class Thing:
            def __del__(self):
                if threading.get_native_id() != os.getpid(): os._exit(9)
        def child():
            gc.disable()
            end = time.monotonic() + 1
            while time.monotonic() < end:
                thing = Thing()
                thing.me = thing
                assert not gc.isenabled()
            gc.enable()
            end = time.monotonic() + 1
            while time.monotonic() < end:
                thing = Thing()
                thing.me = thing
                assert gc.isenabled()
        print(os.waitpid(child_of(child), 0)[1])
        leave()
    """
    ended = run("-c", watched(tmp_path / "events", HELD, body, options="policy='observe', hang_after=0.1"))
    assert ended.stdout == "0\n", ended.stderr
