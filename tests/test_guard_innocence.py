"""Forkproof does no harm: not between forks, not when it fails itself, not to what others registered, not at the end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Run
from forking import BUSY, HELD, events, watched

import forkproof

# The lists that CPython keeps at-fork callbacks in are found by a callback that is in them.
CALLBACKS = """
import gc
def _before(): pass
def _parent(): pass
def _child(): pass
os.register_at_fork(before=_before, after_in_parent=_parent, after_in_child=_child)
def _list_of(callback):
    gc.collect()
    found = [l for l in gc.get_referrers(callback) if type(l) is list and any(x is callback for x in l)]
    assert len(found) == 1, found
    return found[0]
_lists = [_list_of(callback) for callback in (_before, _parent, _child)]
def callbacks():
    return [list(l) for l in _lists]
"""

# The switch interval is shortened while a fork waits, and only then.
WHEN_WAITING = """
usual = sys.getswitchinterval()
def fork_waits():
    until(lambda: sys.getswitchinterval() != usual)
"""

USABLE = """
def usable():
    "What a child does that is in order: threads, imports, output and forks of its own."
    import colorsys
    done = []
    t = thread(done.append, 1)
    t.join(10)
    assert done == [1]
    assert forked(int) == 0
"""

SHORT = "forkproof.install(wait=0.05, warn=False)"
FAULT = "forkproof: off after a fault of its own in "
QUIET = ("-W", "ignore::DeprecationWarning")  # CPython's own warning has its tests elsewhere


def test_a_lock_that_goes_while_a_fork_begins_to_wait_is_not_touched_any_more(run: Run) -> None:
    """A thread's wait for a signal ends while Python code of Forkproof's runs, and its lock is freed with that: it was read, which
    crashed the program (PYTHONMALLOC=debug overwrites what is freed)."""
    body = """
    from forkproof import _native, guard
    signals, waits, begins = [threading.Lock()], threading.Event(), guard._consider
    def wait():
        signal = signals[0]
        signal.acquire()
        waits.set()
        signal.acquire()
    waiting = thread(wait)
    waits.wait()
    until(lambda: waiting.ident in {sighting[0] for sighting in _native.look()})
    def consider(seen):
        signals.pop().release()
        waiting.join()
        give_back.set()
        begins(seen)
    guard._consider = consider
    forkproof.install(warn=False)
    assert forked(lambda: must_be_free(mine)) == 0
    print(signals)
    """
    ended = run("-c", watched(HELD, body, install=""), env={"PYTHONMALLOC": "debug"})
    assert (ended.status, ended.stdout) == (0, "[]\n"), ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# A fault of Forkproof's own


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_step_that_fails_breaks_no_fork(run: Run, step: int) -> None:
    body = f"""
        forkproof._native.fail_at({step})
        print([forked(usable) for _ in range(3)])
    """
    install = "import forkproof._native; " + SHORT
    ended = run(*QUIET, "-c", watched(HELD, USABLE, body, install=install))
    assert ended.stdout == "[0, 0, 0]\n", ended.stderr
    assert FAULT in ended.stderr


@pytest.mark.parametrize("step", [2, 3])
def test_a_step_that_fails_is_reported_once_by_each_process(run: Run, tmp_path: Path, step: int) -> None:
    path = tmp_path / "events"
    body = f"""
        forkproof._native.fail_at({step})
        print({{forked(int) for _ in range(3)}}, os.getpid())
    """
    install = f"import forkproof._native; forkproof.install(wait=0.05, warn=False, events={str(path)!r})"
    ended = run(*QUIET, "-c", watched(HELD, body, install=install))
    assert ended.stdout.startswith("{0} "), ended.stderr
    faults = [line["pid"] for line in events(path, "fault")]
    assert len(faults) == len(set(faults)) > 0
    assert int(ended.stdout.split()[1]) in faults
    assert ended.stderr == ""


@pytest.mark.parametrize("step", [2, 3])
def test_a_step_that_fails_turns_it_off(run: Run, step: int) -> None:
    """Off: nothing is waited for, nothing reset, and CPython's own warning is CPython's again."""
    body = f"""
        forkproof._native.fail_at({step})
        forked(int)
        start = time.monotonic()
        status = forked(lambda: must_be_free(other))
        print(status, forkproof._native.last_clean(), forkproof.guard._settings.installed)
    """
    other = HELD.replace("mine", "other").replace("held", "held_2").replace("give_back", "give_2")
    install = "import forkproof._native; " + SHORT
    text = watched(HELD, other, body, install=install).replace("timeout=5", "timeout=0.3")
    ended = run(*QUIET, "-c", text)
    assert ended.stdout == "1 False False\n", ended.stderr


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_step_that_fails_leaves_no_lock_behind(run: Run, step: int) -> None:
    """The parent goes on with its locks, its imports and the forks of its other threads."""
    body = f"""
        forkproof._native.fail_at({step})
        forked(int)
        must_be_free(lock)
        loaded = []
        def load():
            import colorsys
            loaded.append(forked(int))
        thread(load).join(10)
        print(loaded)
    """
    install = "import forkproof._native; " + SHORT
    ended = run(*QUIET, "-c", watched(HELD, BUSY, body, install=install))
    assert ended.stdout == "[0]\n", ended.stderr


BREAK = """
import forkproof.guard as guard
def fails(*_):
    raise KeyError("injected")
def make_refresh_due():
    import sqlite3, ssl, zlib, bz2, lzma, socket, syslog, grp, pwd
"""


@pytest.mark.parametrize("name", ["_consider", "_after_in_parent", "_after_in_child", "_refresh"])
def test_an_exception_in_a_callback_breaks_no_fork(run: Run, name: str) -> None:
    ended = run(*QUIET, "-c", broken(name, "print([forked(usable) for _ in range(3)])"))
    assert ended.stdout == "[0, 0, 0]\n", ended.stderr


@pytest.mark.parametrize("name", ["_consider", "_after_in_parent", "_after_in_child", "_refresh"])
def test_an_exception_in_a_callback_is_reported_once(run: Run, name: str) -> None:
    forks = 1 if name == "_after_in_child" else 3  # there it is each child's own first time
    ended = run(*QUIET, "-c", broken(name, f"print([forked(int) for _ in range({forks})])"))
    assert ended.stderr.count(FAULT) == 1, ended.stderr
    assert ended.stderr.endswith(": KeyError: 'injected'\n")


@pytest.mark.parametrize("name", ["_consider", "_after_in_parent", "_refresh"])
def test_an_exception_in_a_callback_turns_it_off(run: Run, name: str) -> None:
    body = "forked(int); print(forked(lambda: must_be_free(mine)), forkproof._native.last_clean())"
    ended = run(*QUIET, "-c", broken(name, body).replace("timeout=5", "timeout=0.3"))
    assert ended.stdout == "1 False\n", ended.stderr


def test_an_exception_in_the_child_leaves_the_parent_watched(run: Run) -> None:
    body = """
        print([forked(lambda: must_be_free(mine)) for _ in range(2)], guard._settings.installed)
    """
    ended = run(*QUIET, "-c", broken("_after_in_child", body))
    assert ended.stdout == "[0, 0] True\n", ended.stderr


def broken(name: str, body: str) -> str:
    """A program with an exception in that callback; `_refresh` is called by `install` itself as well, where it passes."""
    setup = f"guard.{name} = fails\nforkproof.install(wait=0.05, warn=False)\n"
    if name == "_refresh":
        setup = (
            "real, calls = guard._refresh, []\n"
            "guard._refresh = lambda: fails() if calls else calls.append(real())\n"
            "forkproof.install(wait=0.05, warn=False)\n"
            "make_refresh_due()\n"
            "warnings.simplefilter('ignore')\n"
        )
    return watched(BREAK, setup, HELD, USABLE, body, install="")


def test_a_fault_with_nowhere_to_say_it_breaks_no_fork(run: Run) -> None:
    body = """
        os.close(2)
        forkproof._native.fail_at(1)
        print([forked(int) for _ in range(3)])
    """
    ended = run(*QUIET, "-c", watched(HELD, body, install="import forkproof._native; " + SHORT))
    assert (ended.status, ended.stdout) == (0, "[0, 0, 0]\n")


# ----------------------------------------------------------------------------------------------------------------------
# Nothing between forks

SNAPSHOT = """
import builtins, multiprocessing.popen_fork, multiprocessing.process, queue, select, signal, socket, subprocess
import concurrent.futures.process, _posixsubprocess, _thread, _socket, posix, pty, importlib, logging
def functions():
    "Every function and class of the modules that threads and forks have to do with, and every method of those classes."
    found = {}
    for module in (builtins, os, posix, pty, sys, threading, _thread, time, queue, select, signal, socket, _socket,
                   subprocess, _posixsubprocess, multiprocessing.process, multiprocessing.popen_fork, importlib,
                   importlib._bootstrap, concurrent.futures.process, concurrent.futures.thread, logging, warnings):
        for name, value in vars(module).items():
            if callable(value):
                found[module.__name__, name] = id(value)
            if isinstance(value, type):
                for part, inside in vars(value).items():
                    if callable(inside):
                        found[module.__name__, name, part] = id(inside)
    return found
import concurrent.futures.thread
"""


def test_no_function_is_patched(run: Run) -> None:
    body = """
        before = functions()
        forkproof.install(warn=False)
        after = functions()
        forked(free)
        later = functions()
        print(len(before) > 1000, before == after, before == later)
    """
    ended = run("-c", watched(SNAPSHOT, BUSY, body, install=""))
    assert ended.stdout == "True True True\n", ended.stderr


HOOKS = """
def hooks():
    seen = [sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()]
    if hasattr(sys, "monitoring"):
        seen += [sys.monitoring.get_tool(tool) for tool in range(6)]
    return seen
before = hooks()
"""


def test_no_trace_profile_or_monitoring_hook(run: Run) -> None:
    body = f"""
        {SHORT}
        between = hooks()
        status = forked(lambda: None if hooks() == before else 1/0)
        print(before == between == hooks(), set(before), status)
    """
    ended = run(*QUIET, "-c", watched(HOOKS, HELD, body, install=""))
    assert ended.stdout == "True {None} 0\n", ended.stderr


def test_no_thread(run: Run) -> None:
    body = """
        def threads():
            return len(os.listdir("/proc/self/task")), threading.active_count()
        def alone():
            assert threads() == (1, 1), threads()
        before = threads()
        forkproof.install(warn=False)
        between = threads()
        status = forked(alone)
        print(before, between == before, threads() == before, status)
    """
    ended = run("-c", watched(BUSY, body, install=""))
    assert ended.stdout == "(4, 4) True True 0\n", ended.stderr


UNCHANGED = {
    "switch interval": "sys.getswitchinterval()",
    "signal mask": "signal.pthread_sigmask(signal.SIG_BLOCK, ())",
    "collector": "gc.isenabled()",
    "signal handlers": "[signal.getsignal(n) for n in sorted(signal.valid_signals())]",
    "import lock": "__import__('_imp').lock_held()",
    "exception hooks": "(sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook)",
}


@pytest.mark.parametrize("what", UNCHANGED)
@pytest.mark.parametrize("situation", ["BUSY", "HELD"])
def test_a_fork_leaves_unchanged(run: Run, what: str, situation: str) -> None:
    body = f"""
        import gc, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        def state():
            return {UNCHANGED[what]}
        before = state()
        {SHORT}
        def same():
            assert state() == before, state()
        statuses = set()
        for _ in range(10):
            statuses.add(forked(same))
            same()
        print(statuses)
    """
    ended = run(*QUIET, "-c", watched(BUSY if situation == "BUSY" else HELD, body, install=""))
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_collector_that_was_off_stays_off(run: Run) -> None:
    body = """
        import gc
        gc.disable()
        statuses = {forked(lambda: 1/0 if gc.isenabled() else None) for _ in range(10)}
        print(statuses, gc.isenabled())
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0} False\n", ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Installing and uninstalling


def test_installed_twice_it_reports_once(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    body = f"""
        forkproof.install(events={str(first)!r})
        forkproof.install(events={str(second)!r})
        print(forked(int))
    """
    ended = run("-c", watched(body, install=""))
    assert ended.stdout == "0\n", ended.stderr
    assert first.read_text() == ""
    assert sorted(json.loads(line)["event"] for line in second.read_text().splitlines()) == ["born", "fork"]


def test_installed_twice_it_has_no_more_callbacks_and_filters_than_once(run: Run) -> None:
    body = """
        nothing = callbacks(), list(warnings.filters)
        forkproof.install()
        once = callbacks(), list(warnings.filters)
        forkproof.install(policy="observe")
        print(once != nothing, (callbacks(), list(warnings.filters)) == once)
    """
    ended = run("-c", watched(CALLBACKS, body, install=""))
    assert ended.stdout == "True True\n", ended.stderr


@pytest.mark.parametrize(
    "how", ["forkproof.install()", "forkproof.install(); forkproof.install(); forked(int)"]
)
def test_uninstalled_it_leaves_callbacks_and_filters_as_they_were(run: Run, how: str) -> None:
    body = f"""
        before = callbacks(), list(warnings.filters)
        {how}
        between = callbacks(), list(warnings.filters)
        forkproof.uninstall()
        print(between != before, (callbacks(), list(warnings.filters)) == before)
    """
    ended = run("-c", watched(CALLBACKS, body, install=""))
    assert ended.stdout == "True True\n", ended.stderr


def test_uninstalled_without_having_been_installed_it_does_nothing(run: Run) -> None:
    ended = run("-c", watched("forkproof.uninstall(); forkproof.uninstall(); print(forked(int))", install=""))
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_installed_again_after_uninstalling_it_works(run: Run) -> None:
    body = f"forkproof.uninstall(); {SHORT}; print(forked(lambda: must_be_free(mine)))"
    ended = run(*QUIET, "-c", watched(HELD, body))
    assert ended.stdout == "0\n", ended.stderr


def test_uninstalled_while_a_fork_waits_that_fork_is_finished(run: Run) -> None:
    body = """
        statuses = []
        forking = thread(lambda: statuses.append(forked(lambda: must_be_free(mine))))
        fork_waits()
        forkproof.uninstall()
        give_back.set()
        forking.join(20)
        print(statuses, sys.getswitchinterval() == usual)
        print(forked(int), mine.acquire(timeout=5))
    """
    ended = run(
        *QUIET, "-c", watched(HELD, WHEN_WAITING, body, install="forkproof.install(wait=20, warn=False)")
    )
    assert ended.stdout == "[0] True\n0 True\n", ended.stderr


@pytest.mark.parametrize("where", ["nowhere/at/all", "."])
def test_an_events_file_that_cannot_be_opened_installs_nothing(run: Run, tmp_path: Path, where: str) -> None:
    body = f"""
        before = callbacks(), list(warnings.filters)
        try:
            forkproof.install(events={str(tmp_path / where)!r})
        except OSError as error:
            print("refused", (callbacks(), list(warnings.filters)) == before, forkproof.guard._settings.installed)
    """
    ended = run("-c", watched(CALLBACKS, body, install=""))
    assert ended.stdout == "refused True False\n", ended.stderr


@pytest.mark.parametrize("arguments", ["policy='never'", "wait=-1", "wait=float('nan')", "hang_after=0"])
def test_a_setting_without_sense_installs_nothing(run: Run, arguments: str) -> None:
    body = f"""
        before = callbacks(), list(warnings.filters)
        try:
            forkproof.install({arguments})
        except ValueError:
            print("refused", (callbacks(), list(warnings.filters)) == before)
    """
    ended = run("-c", watched(CALLBACKS, body, install=""))
    assert ended.stdout == "refused True\n", ended.stderr


def test_without_a_standard_error_it_forks_and_says_nothing(run: Run) -> None:
    body = """
        sys.stderr.close()
        sys.stderr = None
        os.close(2)
        print(forked(lambda: must_be_free(mine)))
    """
    ended = run("-c", watched(HELD, body, install="forkproof.install(wait=0.05)"))
    assert (ended.status, ended.stdout) == (0, "0\n")


def test_with_a_closed_standard_error_object_it_forks(run: Run) -> None:
    body = """
        sys.stderr.close()
        print(forked(lambda: must_be_free(mine)))
    """
    ended = run(*QUIET, "-c", watched(HELD, body, install="forkproof.install(wait=0.05)"))
    assert (ended.status, ended.stdout) == (0, "0\n")


# ----------------------------------------------------------------------------------------------------------------------
# The end of the interpreter


@pytest.mark.parametrize("policy", ["observe", "wait", "raise"])
def test_the_interpreter_ends_quietly_with_busy_daemon_threads(run: Run, policy: str) -> None:
    for _ in range(3):
        ended = run("-c", watched(BUSY, "print('over')", install=f"forkproof.install({policy!r})"))
        assert (ended.status, ended.stdout, ended.stderr) == (0, "over\n", "")


def test_the_interpreter_ends_quietly_after_a_fork_at_risk(run: Run) -> None:
    ended = run(*QUIET, "-c", watched(HELD, BUSY, "print(forked(int))", install=SHORT))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "0\n", "")


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="3.12 refuses to fork in exit handlers, with and without Forkproof (gh-104690)",
)
def test_a_fork_at_exit_is_watched(run: Run) -> None:
    body = """
        import atexit
        atexit.register(lambda: print({forked(free) for _ in range(20)}))
    """
    ended = run("-c", watched(BUSY, body))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "{0}\n", "")


# CPython 3.12 warns in the parent with the import lock of the fork still held, and showing a warning imports `tokenize`, which
# the thread is in the middle of. Both then wait for the other, unless the lock is let go: bare, this hangs on 3.12.
IMPORTS_TOKENIZE = """
import os, sys, threading
for name in ("linecache", "tokenize"):
    sys.modules.pop(name, None)
inside, (forked, child) = threading.Event(), os.pipe()
sys.modules["between"] = type(sys)("between")
sys.modules["between"].__dict__.update(inside=inside, forked=forked)
thread = threading.Thread(target=__import__, args=("tokenize",))
thread.start()
inside.wait()
if os.fork() == 0:
    os.write(child, b"x")
    os._exit(0)
thread.join()
print("over")
"""


def test_the_warning_of_a_fork_does_not_wait_for_a_thread_that_waits_for_the_fork(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tokenize.py").write_text(
        "import os, between\nbetween.inside.set()\nos.read(between.forked, 1)\nimport wave\n"
    )
    (program := tmp_path / "program.py").write_text(IMPORTS_TOKENIZE)
    for policy in ("observe", "wait"):
        options = ("-m", "forkproof", "run", "--policy", policy, "--wait", "0.05")
        ended = run(*options, str(program))
        assert (ended.status, ended.stdout) == (0, "over\n"), (policy, ended)


def test_a_child_that_ends_as_a_whole_interpreter_does_so_quietly(run: Run) -> None:
    body = """
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        print("over")
    """
    ended = run("-c", watched(BUSY, body))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "over\n", "")


def test_forkproof_may_be_the_last_to_be_imported(run: Run) -> None:
    body = """
        import atexit
        def late():
            import forkproof.guard
            forkproof.install()
        atexit.register(late)
    """
    ended = run("-c", "import threading" + dedent(body))
    assert (ended.status, ended.stderr) == (0, "")


# ----------------------------------------------------------------------------------------------------------------------
# Without the extension

WITHOUT = "import sys; sys.modules['forkproof._native'] = None\n"

SLOW = """
import os, builtins
if os.getpid() == builtins.parent:
    builtins.began.set()
    builtins.go.wait()
value = 42
"""


def test_without_the_extension_it_says_once_that_it_sees_less(run: Run) -> None:
    text = watched("forkproof.install(); forkproof.install(); print(forked(int))", install="")
    ended = run("-c", WITHOUT + text)
    assert ended.stdout == "0\n", ended.stderr
    assert ended.stderr.count("RuntimeWarning: forkproof: evidence is not exact here") == 1
    assert ended.stderr.startswith("<string>:"), ended.stderr


def test_where_frames_are_not_known_the_extension_builds_and_refuses(run: Run, tmp_path: Path) -> None:
    """As on a free-threaded build: it must compile there, or the package could not be installed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    sources = sorted(Path(__file__).parent.parent.glob("src/forkproof/_c/*.c"))
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, and its options are those of Linux")
    package = tmp_path / "forkproof"
    ignored = shutil.ignore_patterns("__pycache__", "_native*")
    shutil.copytree(Path(forkproof.__file__).parent, package, ignore=ignored)
    include = [f"-I{sysconfig.get_path(where)}" for where in ("include", "platinclude")]
    options = [
        "-shared",
        "-fPIC",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Wno-missing-field-initializers",
    ]
    options += ["-Werror", "-DFORKPROOF_UNKNOWN_INTERPRETER=1"]
    subprocess.run([compiler, *options, *include, *sources, "-o", package / "_native.so"], check=True)
    body = "print(_native, forked(int)); found = forkproof.assess(); print(found.exact, found.note)"
    install = "from forkproof.guard import _native; forkproof.install()"
    ended = run("-c", watched(body, install=install), env={"PYTHONPATH": str(tmp_path)})
    assert ended.stdout.startswith(
        "None 0\nFalse forkproof reads the frames of CPython 3.11 to 3.15, not of"
    ), ended
    assert ended.stderr.count("RuntimeWarning: forkproof: evidence is not exact here") == 1


def test_without_the_extension_imports_are_still_waited_for(run: Run, tmp_path: Path) -> None:
    """If the fork came to look only after the import was over, nothing would fail; if it did not wait, the child would
    hang, and before 0.3 seconds had gone."""
    (tmp_path / "slow.py").write_text(SLOW)
    body = f"""
        import builtins
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.parent, builtins.began, builtins.go = os.getpid(), threading.Event(), threading.Event()
        def load():
            import slow
        thread(load)
        began.wait()
        forking = threading.Event()
        def release():
            forking.wait()
            time.sleep(0.3)
            go.set()
        thread(release)
        os.register_at_fork(before=forking.set)
        def child():
            import slow
            assert slow.value == 42
        start = time.monotonic()
        print(forked(child), time.monotonic() - start >= 0.3)
    """
    install = "warnings.simplefilter('ignore'); forkproof.install(wait=20, warn=False)"
    ended = run("-c", WITHOUT + watched(body, install=install))
    assert ended.stdout == "0 True\n", ended.stderr


def test_where_threads_run_on_during_a_look_no_frame_is_read(run: Run) -> None:
    """Without a GIL a frame can end while it is read. Imports have owners of their own to tell."""
    body = """
        from importlib import _bootstrap
        taken, give_back = threading.Event(), threading.Event()
        def load():
            with _bootstrap._ModuleLockManager("some.module"):
                taken.set()
                give_back.wait()
        loader = thread(load)
        taken.wait()
        sys._is_gil_enabled = lambda: False
        del sys._current_frames
        forkproof.install(policy="observe", warn=False)
        print([(hazard.what, hazard.stack) for hazard in forkproof.assess().hazards], forked(int))
        give_back.set()
    """
    ended = run("-c", WITHOUT + watched(body, install=""))
    assert ended.stdout == "[('import of some.module', ())] 0\n", ended.stderr
    assert "it sees imports, not locks" in ended.stderr


def test_without_the_extension_a_fault_breaks_no_fork(run: Run) -> None:
    body = """
        from forkproof.evidence import coarse
        def fails():
            raise KeyError("injected")
        coarse.look = fails
        print([forked(int) for _ in range(3)])
    """
    install = "warnings.simplefilter('ignore'); forkproof.install()"
    ended = run("-c", WITHOUT + watched(body, install=install))
    assert ended.stdout == "[0, 0, 0]\n", ended.stderr
    assert ended.stderr.count(FAULT) == 1, ended.stderr


def test_without_the_extension_it_can_be_uninstalled(run: Run) -> None:
    install = "warnings.simplefilter('ignore'); forkproof.install(); forkproof.uninstall()"
    ended = run("-c", WITHOUT + watched("print(forked(int), bool(forkproof.assess()))", install=install))
    assert (ended.stdout, ended.stderr) == ("0 False\n", "")


# ----------------------------------------------------------------------------------------------------------------------
# Beside others


NAPS = """
def nap():
    time.sleep(0.002)
"""


@pytest.mark.parametrize("when", ["earlier", "later", "both"])
def test_no_gap_where_other_callbacks_let_the_others_run(run: Run, when: str) -> None:
    register = "os.register_at_fork(before=nap, after_in_parent=nap, after_in_child=nap)"
    body = f"""
        {register if when in ("earlier", "both") else ""}
        forkproof.install(warn=False)
        {register if when in ("later", "both") else ""}
        print({{forked(free) for _ in range(60)}})
    """
    ended = run("-c", watched(BUSY, NAPS, body, install=""))
    assert ended.stdout == "{0}\n", ended.stderr


def test_no_gap_under_contention_for_the_import_lock(run: Run) -> None:
    """PyOS_BeforeFork takes it after the last callback; where it is taken the GIL may go."""
    body = """
        import _imp
        def contend():
            while True:
                _imp.acquire_lock()
                time.sleep(0.0005)
                _imp.release_lock()
        for _ in range(2):
            thread(contend)
        print({forked(free) for _ in range(60)})
    """
    ended = run("-c", watched(BUSY, body), limit=240)
    assert ended.stdout == "{0}\n", ended.stderr


def test_a_childs_callback_that_takes_the_contended_lock_finds_it_free(run: Run) -> None:
    """Others' child callbacks run after the reset, whether they were registered earlier or later."""
    body = """
        os.register_at_fork(after_in_child=free)
        forkproof.install(warn=False)
        os.register_at_fork(after_in_child=free)
        print({forked(int) for _ in range(40)})
    """
    ended = run("-c", watched(BUSY, body, install=""))
    assert (ended.stdout, ended.stderr) == ("{0}\n", "")


def test_others_callbacks_keep_their_order(run: Run) -> None:
    body = """
        for name in "abc":
            os.register_at_fork(before=lambda name=name: print(name, end=""),
                                after_in_parent=lambda name=name: print(name.upper(), end=""))
            forkproof.install()
        forked(int)
    """
    ended = run("-c", watched(body, install=""))
    assert ended.stdout == "cbaABC", ended.stderr


def test_a_callback_of_another_that_fails_does_no_harm(run: Run) -> None:
    body = """
        def fails(): raise KeyError("theirs")
        os.register_at_fork(before=fails, after_in_parent=fails, after_in_child=fails)
        print({forked(free) for _ in range(20)})
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{0}\n", ended.stderr
    assert FAULT not in ended.stderr


def test_a_fork_by_c_without_hooks_does_no_harm(run: Run) -> None:
    """Its pthread_atfork handlers run, and no callback of Python's."""
    body = """
        import ctypes
        c = ctypes.PyDLL(None)
        def bare():
            pid = c.fork()
            if pid == 0:
                os._exit(0)
            os.kill(pid, 9)     # for such a child may itself hang: a thread that it does not have can hold the GIL's mutex
            os.waitpid(pid, 0)
        print({(forked(free), bare(), forked(free)) for _ in range(20)})
    """
    ended = run("-c", watched(BUSY, body))
    assert ended.stdout == "{(0, None, 0)}\n", ended.stderr


def test_a_fork_by_c_while_another_fork_waits_does_no_harm(run: Run) -> None:
    body = """
        import ctypes
        c = ctypes.PyDLL(None)
        statuses = []
        forking = thread(lambda: statuses.append(forked(lambda: must_be_free(mine))))
        fork_waits()
        pid = c.fork()
        if pid == 0:
            os._exit(0)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        give_back.set()
        forking.join(20)
        print(statuses, sys.getswitchinterval() == usual)
    """
    ended = run(
        *QUIET, "-c", watched(HELD, WHEN_WAITING, body, install="forkproof.install(wait=20, warn=False)")
    )
    assert ended.stdout == "[0] True\n", ended.stderr


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
def inside(code, *config):
    created = interpreters.create(*config)
    try:
        interpreters.run_string(created, code)
    except Exception as error:
        print("inside:", type(error).__name__)
    interpreters.destroy(created)
"""


def test_importing_it_in_a_subinterpreter_does_no_harm(run: Run) -> None:
    body = """
        inside("import forkproof.guard")
        print("over")
    """
    ended = run("-c", watched(SUBINTERPRETER, body, install=""))
    assert (ended.status, ended.stdout.splitlines()[-1]) == (0, "over"), ended.stderr


def test_switched_on_from_the_environment_it_says_nothing_in_a_subinterpreter(run: Run) -> None:
    """A program may have hundreds, and each of them has a start of its own."""
    body = """
        for config in [()] if sys.version_info < (3, 13) else [("isolated",), ("legacy",)]:
            inside("import forkproof.guard as guard; print(guard._settings.installed, guard.elsewhere, flush=True)", *config)
        print(forkproof.guard._settings.installed)
    """
    ended = run("-c", watched(SUBINTERPRETER, body, install=""), env={"FORKPROOF": "on"})
    assert (set(ended.stdout.splitlines()), ended.stderr) == ({"False True", "True"}, "")


def test_installing_it_in_a_subinterpreter_leaves_the_main_one_watched(run: Run) -> None:
    body = """
        inside("import forkproof; forkproof.install()")
        print({forked(free) for _ in range(30)})
    """
    ended = run("-c", watched(SUBINTERPRETER, BUSY, body))
    assert (ended.status, ended.stdout.splitlines()[-1]) == (0, "{0}"), ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Locks that are mended by their library

HANDLER = """
import logging
inside = threading.Event()
class Handler(logging.Handler):
    def emit(self, record):
        inside.set()
        threading.Event().wait()
class Other:
    def __init__(self):
        self.lock = threading.RLock()
    def handle(self):
        with self.lock:
            inside.set()
            threading.Event().wait()
"""


def test_a_logging_handlers_lock_is_no_hazard(run: Run) -> None:
    body = """
        thread(Handler().handle, logging.makeLogRecord({}))
        inside.wait()
        print([hazard.what for hazard in forkproof.assess().hazards], flush=True)
        os._exit(0)     # logging.shutdown() would wait for the handler
    """
    ended = run("-c", watched(HANDLER, body))
    assert ended.stdout == "[]\n", ended.stderr


def test_a_lock_of_that_name_in_another_class_is_one(run: Run) -> None:
    body = """
        other = Other()
        thread(other.handle)
        inside.wait()
        print([hazard.what for hazard in forkproof.assess().hazards])
    """
    ended = run("-c", watched(HANDLER, body))
    assert ended.stdout == "['self.lock of __main__.Other']\n", ended.stderr


def test_a_logging_handlers_lock_costs_no_wait_and_no_warning(run: Run) -> None:
    body = """
        thread(Handler().handle, logging.makeLogRecord({}))
        inside.wait()
        start = time.monotonic()
        print(forked(int), time.monotonic() - start < 20, flush=True)
        os._exit(0)     # logging.shutdown() would wait for the handler
    """
    ended = run("-c", watched(HANDLER, body, install="forkproof.install(wait=30)"), limit=60)
    assert (ended.stdout, ended.stderr) == ("0 True\n", "")
