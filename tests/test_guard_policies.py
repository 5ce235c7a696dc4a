"""What each policy does at a fork, what the program is told, and every way of forking that the standard library has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import Ended, Run
from forking import BUSY, HELD, events, program, watched

ATTEMPT = """
def attempt(fork):
    try:
        pid = fork()
    except forkproof.ForkRiskError as error:
        print("refused:", error)
        return
    if isinstance(pid, tuple):
        os.close(pid[1]) if pid[0] else None
        pid = pid[0]
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print("forked")
"""

SHORT = "forkproof.install(wait=0.05, warn=False)"
LOUD = "forkproof.install(wait=0.05)"
needs_312 = sys.version_info >= (3, 12)


@pytest.fixture
def terminals() -> None:
    """For programs that make pseudo-terminals."""
    try:
        for end in os.openpty():
            os.close(end)
    except OSError as error:
        pytest.skip(f"no terminals here: {error}")


def with_events(path: Path, more: str = "") -> str:
    return f"forkproof.install(events={str(path)!r}, warn=False, {more})"


def app(tmp_path: Path, *parts: str, install: str = LOUD) -> tuple[Path, int]:
    """A program in a file, and the number of its line that is marked `# here`."""
    path = tmp_path / "app.py"
    text = watched(*parts, install=install)
    path.write_text(text)
    return path, next(at for at, line in enumerate(text.splitlines(), 1) if line.endswith("# here"))


def warned(ended: Ended, text: str) -> list[str]:
    """The places (file:line) at which a ForkRiskWarning with that text was shown."""
    return [
        line.partition(": ForkRiskWarning: ")[0]
        for line in ended.stderr.splitlines()
        if ": ForkRiskWarning: " in line and text in line
    ]


# ----------------------------------------------------------------------------------------------------------------------
# raise

RAISE = 'forkproof.install(policy="raise", wait=0.05, warn=False)'


@pytest.mark.parametrize("fork", ["os.fork", "os.forkpty", "fork"])
def test_raise_refuses_a_fork_at_risk(run: Run, fork: str) -> None:
    ended = run("-c", watched("from os import fork", HELD, ATTEMPT, f"attempt({fork})", install=RAISE))
    assert ended.stdout.startswith("refused: "), ended.stderr
    assert "holds mine of " in ended.stdout


def test_raise_refuses_before_any_callback_has_run(run: Run) -> None:
    body = """
        os.register_at_fork(before=lambda: print("called"))
        attempt(os.fork)
    """
    ended = run("-c", watched(HELD, ATTEMPT, body, install=RAISE))
    assert ended.stdout.startswith("refused: "), ended.stderr
    assert "called" not in ended.stdout


@pytest.mark.parametrize("fork", ["os.fork", "os.forkpty"])
def test_raise_allows_a_fork_with_nothing_at_risk(
    run: Run, fork: str, request: pytest.FixtureRequest
) -> None:
    if fork == "os.forkpty":
        request.getfixturevalue("terminals")
    body = f"give_back.set(); holder.join(); thread(threading.Event().wait); attempt({fork})"
    ended = run("-c", watched(HELD, ATTEMPT, body, install=RAISE))
    assert ended.stdout == "forked\n", ended.stderr


def test_raise_allows_every_fork_once_uninstalled(run: Run) -> None:
    body = "attempt(os.fork); forkproof.uninstall(); attempt(os.fork)"
    ended = run("-c", watched(HELD, ATTEMPT, body, install=RAISE))
    assert [line.split(":")[0] for line in ended.stdout.splitlines()] == ["refused", "forked"], ended.stderr


def test_raise_allows_every_fork_after_another_policy_is_installed(run: Run) -> None:
    body = f"attempt(os.fork); {SHORT}; attempt(os.fork)"
    ended = run("-c", watched(HELD, ATTEMPT, body, install=RAISE))
    assert [line.split(":")[0] for line in ended.stdout.splitlines()] == ["refused", "forked"], ended.stderr


def test_raise_writes_down_what_it_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    ended = run("-c", watched(HELD, ATTEMPT, "attempt(os.fork)", install=with_events(path, 'policy="raise"')))
    assert ended.status == 0, ended.stderr
    (fork,) = events(path, "fork")
    assert (fork["outcome"], fork["risk"]) == ("refused", "certain")


def test_raise_repairs_where_a_fork_cannot_be_refused(run: Run) -> None:
    body = """
        import subprocess
        print(subprocess.run(["true"], preexec_fn=lambda: must_be_free(mine)).returncode)
    """
    ended = run("-c", watched(HELD, body, install=RAISE))
    assert ended.stdout == "0\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# observe


def test_observe_names_what_was_held_by_whom_and_where(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    program_text = watched(HELD, "forked(lambda: None)", install=with_events(path, 'policy="observe"'))
    ended = run("-c", program_text)
    assert ended.status == 0, ended.stderr
    (fork,) = events(path, "fork")
    (hazard,) = fork["hazards"]
    line = program_text.splitlines().index("    with mine:") + 1
    assert hazard["what"].startswith("mine of ")
    assert (hazard["certainty"], hazard["cleared"], hazard["state"]) == ("certain", False, "holds")
    assert "(hold)" in hazard["thread"]["name"]
    assert (hazard["held_at"]["line"], hazard["held_at"]["function"]) == (line, "hold")
    assert (fork["risk"], fork["outcome"]) == ("certain", "observed")


def test_observe_does_not_wait(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    install = with_events(path, 'policy="observe", wait=5.0')
    ended = run("-c", watched(HELD, "forked(lambda: None)", install=install))
    assert ended.status == 0, ended.stderr
    (fork,) = events(path, "fork")
    assert (fork["waited_ms"], fork["polls"], fork["repaired"]) == (0, 1, [])


def test_observe_repairs_nothing(run: Run) -> None:
    body = "print(forked(lambda: must_be_free(mine)))"
    install = 'forkproof.install(policy="observe", warn=False)'
    ended = run("-c", watched(HELD, body, install=install).replace("timeout=5", "timeout=0.3"))
    assert ended.stdout == "1\n", ended.stderr


def test_observe_leaves_the_waiters_of_a_condition(run: Run) -> None:
    body = """
        condition = threading.Condition()
        def wait():
            with condition:
                condition.wait()
        thread(wait)
        until(lambda: len(condition._waiters) == 1)
        print(forked(lambda: None if len(condition._waiters) == 1 else 1/0))
    """
    ended = run("-c", watched(body, install='forkproof.install(policy="observe", warn=False)'))
    assert ended.stdout == "0\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# ForkRiskWarning

WAYS = {
    "os.fork": """
        pid = os.fork()  # here
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
    """,
    "multiprocessing": """
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()  # here
        process.join()
    """,
    "subprocess": """
        import subprocess
        subprocess.run(["true"], preexec_fn=int)  # here
    """,
    "concurrent.futures": """
        import concurrent.futures, multiprocessing
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            pool.submit(int).result()  # here
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_parent_is_warned_at_the_line_that_forked(run: Run, tmp_path: Path, way: str) -> None:
    path, line = app(tmp_path, HELD, WAYS[way])
    ended = run(path)
    assert ended.status == 0, ended.stderr
    assert warned(ended, "the child may hang") == [f"{path}:{line}"], ended.stderr


@pytest.mark.parametrize("way", WAYS)
def test_the_child_is_warned_of_what_it_reset(run: Run, tmp_path: Path, way: str) -> None:
    path, line = app(tmp_path, HELD, WAYS[way])
    ended = run(path)
    assert warned(ended, "reset in this child") == [f"{path}:{line}"], ended.stderr


def test_the_child_is_not_warned_where_nothing_was_reset(run: Run, tmp_path: Path) -> None:
    path, line = app(tmp_path, HELD, WAYS["os.fork"], install="forkproof.install(wait=0.05, repair=False)")
    ended = run(path)
    assert warned(ended, "") == [f"{path}:{line}"], ended.stderr


def test_a_warning_says_who_holds_what_and_how_to_mend_it(run: Run, tmp_path: Path) -> None:
    path, _ = app(tmp_path, HELD, WAYS["os.fork"])
    ended = run(path)
    assert "(hold)' holds mine of " in ended.stderr
    assert "declare_safe" in ended.stderr
    assert "forkserver" in ended.stderr


def test_no_warning_where_the_wait_was_enough(run: Run) -> None:
    ended = run(
        "-W", "always", "-c", watched(BUSY, "print(forked(free))", install="forkproof.install(wait=10)")
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_no_warning_with_warn_off(run: Run) -> None:
    ended = run("-W", "ignore::DeprecationWarning", "-c", watched(HELD, "print(forked(int))", install=SHORT))
    assert (ended.stdout, ended.stderr) == ("0\n", "")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_made_of_a_warning_is_shown_and_breaks_no_fork(run: Run, tmp_path: Path, way: str) -> None:
    path, _ = app(tmp_path, HELD, WAYS[way], 'print("over")')
    ended = run("-W", "error", "-W", "ignore::DeprecationWarning", path)
    assert (ended.status, ended.stdout) == (0, "over\n"), ended.stderr
    shown = [line for line in ended.stderr.splitlines() if "ForkRiskWarning: fork at risk" in line]
    assert len([line for line in shown if "the child may hang" in line]) == 1, ended.stderr
    assert len([line for line in shown if "reset in this child" in line]) == 1, ended.stderr


def test_an_error_made_of_a_warning_is_no_fault(run: Run) -> None:
    """Forkproof goes on: the lock is reset at the fork after it as well."""
    body = "print([forked(lambda: must_be_free(mine)) for _ in range(3)])"
    ended = run(
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        watched(HELD, body, install=LOUD).replace("timeout=5", "timeout=1"),
    )
    assert ended.stdout == "[0, 0, 0]\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# CPython's own warning

CATCH = """
def caught(setting):
    with warnings.catch_warnings(record=True) as seen:
        if setting:
            warnings.simplefilter(setting)
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
    return [w.category.__name__ for w in seen]
"""
IDLE = "thread(threading.Event().wait)"


@pytest.mark.skipif(not needs_312, reason="CPython says nothing before 3.12")
@pytest.mark.parametrize("setting", [None, "always", "default", "error"])
def test_cpythons_warning_is_hidden_at_a_clean_fork(run: Run, setting: str | None) -> None:
    ended = run("-c", watched(IDLE, CATCH, f"print(caught({setting!r}), caught({setting!r}))", install=SHORT))
    assert (ended.stdout, ended.stderr) == ("[] []\n", "")


@pytest.mark.skipif(not needs_312, reason="CPython says nothing before 3.12")
@pytest.mark.parametrize("setting", [None, "always", "default"])
def test_cpythons_warning_is_kept_at_a_risky_fork(run: Run, setting: str | None) -> None:
    ended = run("-c", watched(HELD, CATCH, f"print(caught({setting!r}))", install=SHORT))
    assert ended.stdout == "['DeprecationWarning']\n", ended.stderr


@pytest.mark.skipif(not needs_312, reason="CPython says nothing before 3.12")
def test_cpythons_warning_is_decided_fork_by_fork(run: Run) -> None:
    body = """
        print(caught("always"))
        give_back.set(); holder.join(); thread(threading.Event().wait)
        print(caught("always"))
    """
    ended = run("-c", watched(HELD, CATCH, body, install=SHORT))
    assert ended.stdout == "['DeprecationWarning']\n[]\n", ended.stderr


@pytest.mark.skipif(not needs_312, reason="CPython says nothing before 3.12")
def test_cpythons_warning_comes_again_once_uninstalled(run: Run) -> None:
    ended = run("-c", watched(IDLE, CATCH, "forkproof.uninstall(); print(caught('always'))", install=SHORT))
    assert ended.stdout == "['DeprecationWarning']\n", ended.stderr


@pytest.mark.skipif(not needs_312, reason="CPython says nothing before 3.12")
def test_cpythons_warning_comes_at_a_clean_fork_without_forkproof(run: Run) -> None:
    """The control of the tests above."""
    ended = run("-c", watched(IDLE, CATCH, "print(caught('always'))", install=""))
    assert ended.stdout == "['DeprecationWarning']\n", ended.stderr


def test_other_deprecations_are_not_hidden(run: Run) -> None:
    body = """
        print(forked(int))
        warnings.warn("an old thing", DeprecationWarning)
    """
    ended = run("-W", "always", "-c", watched(IDLE, body, install=SHORT))
    assert "DeprecationWarning: an old thing" in ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Imports

SLOW = """
import os, builtins
if os.getpid() == builtins.parent:
    builtins.began.set()
    builtins.go.wait()
value = 42
"""

IMPORTING = """
import builtins
builtins.parent, builtins.began, builtins.go = os.getpid(), threading.Event(), threading.Event()
def load():
    import slow
importer = thread(load)
began.wait()
def child():
    import slow
    assert slow.value == 42
"""

# The switch interval is shortened while a fork waits, and only then.
WHEN_WAITING = """
usual = sys.getswitchinterval()
def when_waiting(function):
    until(lambda: sys.getswitchinterval() != usual)
    function()
"""


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "slow.py").write_text(SLOW)
    return {"PYTHONPATH": str(tmp_path)}


def test_an_import_is_waited_for(run: Run, tmp_path: Path, slow: dict[str, str]) -> None:
    path = tmp_path / "events"
    body = "thread(when_waiting, go.set); print(forked(child))"
    ended = run("-c", watched(IMPORTING, WHEN_WAITING, body, install=with_events(path, "wait=20")), env=slow)
    assert ended.stdout == "0\n", ended.stderr
    (fork,) = events(path, "fork")
    (hazard,) = [h for h in fork["hazards"] if h["kind"] == "import-lock"]
    assert (hazard["what"], hazard["cleared"], hazard["state"]) == ("import of slow", True, "importing")
    assert (fork["outcome"], fork["risk"]) == ("waited", "none")
    assert fork["waited_ms"] > 0


def test_an_import_that_does_not_end_is_done_anew_in_the_child(
    run: Run, tmp_path: Path, slow: dict[str, str]
) -> None:
    path = tmp_path / "events"
    install = with_events(path, "wait=0.05")
    ended = run("-c", watched(IMPORTING, "print(forked(child)); go.set()", install=install), env=slow)
    assert ended.stdout == "0\n", ended.stderr
    (fork,) = events(path, "fork")
    assert (fork["outcome"], fork["risk"]) == ("gave-up", "certain")
    assert "import of slow" in fork["repaired"]
    (born,) = events(path, "born")
    assert "import of slow" in born["repaired"]


def test_an_import_that_does_not_end_hangs_the_child_without_repair(run: Run, slow: dict[str, str]) -> None:
    """The control of the test above."""
    install = "forkproof.install(wait=0.05, repair=False, warn=False)"
    body = "print(forked(child, limit=1)); go.set()"
    ended = run("-c", watched(IMPORTING, body, install=install), env=slow)
    assert ended.stdout == "hung\n", ended.stderr


def test_the_parents_import_goes_on_after_the_fork(run: Run, slow: dict[str, str]) -> None:
    body = "forked(child); go.set(); importer.join(10); print(sys.modules['slow'].value)"
    ended = run("-c", watched(IMPORTING, body, install=SHORT), env=slow)
    assert ended.stdout == "42\n", ended.stderr


def test_imports_that_follow_on_each_other_come_to_an_end(run: Run, tmp_path: Path) -> None:
    """At no look is none of six threads in the middle of one, unless each is stopped when it is out of its own."""
    path = tmp_path / "events"
    for number in range(6):
        (tmp_path / f"module{number}.py").write_text("def function(): pass\n" * 2000)
    body = """
        import importlib
        def ceaseless(name):
            while True:
                importlib.import_module(name)
                del sys.modules[name]
        for number in range(6):
            thread(ceaseless, f"module{number}")
        time.sleep(0.1)
        print([forked(int) for _ in range(3)])
    """
    ended = run(
        "-c",
        program(body, install=with_events(path, "wait=20")),
        env={"PYTHONPATH": str(tmp_path)},
        limit=100,
    )
    assert ended.stdout == "[0, 0, 0]\n", ended.stderr
    outcomes = [fork["outcome"] for fork in events(path, "fork")]
    # Clear: a fork so soon after another that those who were stopped for that have not begun anew.
    assert outcomes[0] == "waited" and set(outcomes) <= {"waited", "clear"}


# ----------------------------------------------------------------------------------------------------------------------
# Buffered files

FULL_PIPE = """
reader, writer = os.pipe()
os.dup2(writer, 1)
thread(print, "x" * 1_000_000)
import select
until(lambda: not select.select([], [1], [], 0)[1])     # full: the thread is inside write() and stays there
def child():
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)
    print("from the child", flush=True)
def over(*what):
    os.write(2, repr(what).encode())
    os._exit(0)
"""


def test_a_child_prints_though_a_thread_was_blocked_in_print(run: Run, tmp_path: Path) -> None:
    ended = run("-c", watched(FULL_PIPE, "over(forked(child))", install=SHORT), tmp_path / "out")
    assert ended.stderr.endswith("(0,)"), ended.stderr
    assert (tmp_path / "out").read_text().endswith("from the child\n")


def test_a_child_hangs_in_print_without_repair(run: Run, tmp_path: Path) -> None:
    """The control of the test above."""
    install = "forkproof.install(wait=0.05, repair=False, warn=False)"
    ended = run("-c", watched(FULL_PIPE, "over(forked(child, limit=1))", install=install), tmp_path / "out")
    assert ended.stderr.endswith("('hung',)"), ended.stderr


def test_a_blocked_file_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    ended = run("-c", watched(FULL_PIPE, "over(forked(int))", install=with_events(path, "wait=0.05")))
    assert ended.stderr.endswith("(0,)"), ended.stderr
    (fork,) = events(path, "fork")
    assert [h["what"] for h in fork["hazards"] if h["certainty"] == "certain"] == [
        "sys.stdout (BufferedWriter)"
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Ways of forking, while three threads contend for a lock that the child takes


@pytest.mark.usefixtures("terminals")
def test_os_forkpty(run: Run) -> None:
    body = """
        statuses = set()
        for _ in range(25):
            pid, fd = os.forkpty()
            if pid == 0:
                try: free()
                except BaseException: os._exit(1)
                os._exit(0)
            statuses.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os.close(fd)
        print(statuses)
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0}\n", ended.stderr


@pytest.mark.usefixtures("terminals")
def test_pty_fork(run: Run) -> None:
    body = """
        import pty
        statuses = set()
        for _ in range(25):
            pid, fd = pty.fork()
            if pid == 0:
                try: free()
                except BaseException: os._exit(1)
                os._exit(0)
            statuses.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os.close(fd)
        print(statuses)
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0}\n", ended.stderr


def test_multiprocessing(run: Run) -> None:
    body = """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        statuses = set()
        for _ in range(25):
            process = context.Process(target=free)
            process.start()
            process.join(15)
            statuses.add(process.exitcode)
        print(statuses)
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0}\n", ended.stderr


def test_multiprocessing_pool(run: Run) -> None:
    body = """
        import multiprocessing
        for _ in range(3):
            with multiprocessing.get_context("fork").Pool(4) as pool:
                assert pool.map_async(lock_is_free, range(20)).get(15) == [True] * 20
        print("over")
    """
    define = "def lock_is_free(_): return lock.acquire(timeout=5) and (lock.release() or True)"
    ended = run("-c", watched(BUSY, define, body))
    assert ended.stdout == "over\n", ended.stderr


def test_a_process_pool_executor(run: Run) -> None:
    body = """
        import concurrent.futures, multiprocessing
        context = multiprocessing.get_context("fork")
        for _ in range(5):
            with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
                for future in [pool.submit(free) for _ in range(6)]:
                    future.result(timeout=15)
        print("over")
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "over\n", ended.stderr


def test_subprocess_with_a_preexec_fn(run: Run) -> None:
    body = """
        import subprocess
        print({subprocess.run(["true"], preexec_fn=free).returncode for _ in range(25)})
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0}\n", ended.stderr


def test_forks_from_another_thread(run: Run) -> None:
    body = """
        results = []
        def fork():
            results.extend(forked(free) for _ in range(40))
        thread(fork).join()
        print(set(results), len(results))
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0} 40\n", ended.stderr


def test_forks_of_forks(run: Run) -> None:
    """Three levels deep, with contending threads of its own at each."""
    body = """
        def descend(level):
            free()
            if level:
                for _ in range(3):
                    thread(work)
                for _ in range(3):
                    assert forked(lambda: descend(level - 1), limit=100) == 0
        print(forked(lambda: descend(3), limit=110))
    """
    ended = run("-c", watched(BUSY, body), limit=120)
    assert ended.stdout == "0\n", ended.stderr


def test_two_threads_that_fork_at_once(run: Run) -> None:
    body = """
        results = []
        def fork():
            results.extend(forked(free) for _ in range(40))
        both = [thread(fork) for _ in range(2)]
        for t in both: t.join()
        print(set(results), len(results))
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0} 80\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Events


def test_lines_of_many_processes_never_interleave(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    body = """
        def fork_on():
            held.clear()
            thread(hold)          # a hazard of its own for each: lines are long
            held.wait()
            mine_now = [forked(int) for _ in range(25)]
            assert set(mine_now) == {0}
        def process():
            global mine
            mine = threading.Lock()
            fork_on()
        pids = []
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    process()
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        print({os.waitpid(pid, 0)[1] for pid in pids})
    """
    ended = run("-c", watched(HELD, body, install=with_events(path, "wait=0.001")), limit=60)
    assert ended.stdout == "{0}\n", ended.stderr
    forks, born = events(path, "fork"), events(path, "born")
    assert (len(forks), len(born)) == (8 + 8 * 25, 8 + 8 * 25)
    assert len({line["pid"] for line in forks}) == 9
    assert {line["pid"] for line in born}.isdisjoint({0})
    assert path.read_text().count("\n") == len(forks) + len(born)


def test_a_clean_fork_has_its_line_and_its_birth(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    ended = run("-c", watched("print(os.getpid(), forked(int))", install=with_events(path)))
    pid, status = ended.stdout.split()
    assert status == "0", ended.stderr
    (fork,) = events(path, "fork")
    (born,) = events(path, "born")
    assert (fork["pid"], fork["risk"], fork["hazards"], fork["outcome"]) == (int(pid), "none", [], "clear")
    assert (born["parent"], born["fork"]) == (int(pid), fork["fork"])


def test_a_thread_that_has_ended_when_the_event_is_written_has_its_name(run: Run, tmp_path: Path) -> None:
    """The parent's own callback lets it end between the fork and that."""
    path = tmp_path / "events"
    holder = """
lock, held, over = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock:
        held.set()
        over.wait()
thread = threading.Thread(target=hold, name="holder")
os.register_at_fork(after_in_parent=lambda: (over.set(), thread.join()))
thread.start()
held.wait()
"""
    ended = run(
        "-c", watched(holder, ATTEMPT, "attempt(os.fork)", install=with_events(path, 'policy="observe"'))
    )
    assert ended.stdout == "forked\n", ended.stderr
    (fork,) = events(path, "fork")
    assert [hazard["thread"]["name"] for hazard in fork["hazards"]] == ["holder"]
