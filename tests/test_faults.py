"""Where the system fails or the program does the worst: nothing is raised into it, nothing hangs, and what can be is still done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from forking import BUSY, HELD, events, watched

# Of a fault of Forkproof's own, and of a callback whose exception was swallowed.
FAULTS = ("forkproof: off", "Exception ignored")


def innocent(stderr: str) -> bool:
    return not any(fault in stderr for fault in FAULTS)


# ----------------------------------------------------------------------------------------------------------------------
# The system


def unshared() -> bool:
    """Whether a process here may have file systems of its own."""
    command = ["unshare", "--map-root-user", "--mount", "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("situation", [BUSY, HELD + "def free():\n    must_be_free(mine)\n"])
def test_without_proc_a_child_gets_through(run: Run, situation: str) -> None:
    if not unshared():
        pytest.skip("no mount namespaces here")
    code = watched(
        situation, "assert not os.path.exists('/proc/self')\nprint({forked(free) for _ in range(5)})"
    )
    hidden = 'mount -t tmpfs none /proc && exec "$0" "$@"'
    ended = run(
        "--map-root-user", "--mount", "sh", "-c", hidden, sys.executable, "-c", code, command="unshare"
    )
    assert (ended.status, ended.stdout) == (0, "{0}\n"), ended.stderr
    assert innocent(ended.stderr)


def test_a_fork_that_the_system_refuses_leaves_all_as_it_was(run: Run) -> None:
    """The locks that were owned for it are let go, and the next fork is as good as any."""
    body = """
        import resource
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)    # root is not limited
        allowed, most = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, most))
        refused = 0
        for _ in range(10):
            try:
                os.fork()
            except BlockingIOError:
                refused += 1
        free()
        resource.setrlimit(resource.RLIMIT_NPROC, (allowed, most))
        print(refused, {forked(free) for _ in range(10)})
    """
    ended = run("-c", watched(BUSY, body))
    assert (ended.status, ended.stdout) == (0, "10 {0}\n"), ended.stderr
    assert innocent(ended.stderr)


def test_a_full_disk_costs_events_and_nothing_else(run: Run) -> None:
    install = "forkproof.install(warn=False, wait=0.01, events='/dev/full')"
    body = "print({forked(lambda: must_be_free(mine)) for _ in range(5)})"
    ended = run("-c", watched(HELD, body, install=install))
    assert (ended.status, ended.stdout) == (0, "{0}\n"), ended.stderr
    assert innocent(ended.stderr)


def test_events_go_on_once_the_disk_has_room_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    install = f"forkproof.install(warn=False, wait=0.01, events={str(file)!r})"
    body = """
        import resource
        def fork():
            assert forked(lambda: must_be_free(mine)) == 0
        fork()
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(forkproof_events).st_size + 50, most))
        fork()
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        fork()
    """
    ended = run("-c", f"forkproof_events = {str(file)!r}\n" + watched(HELD, body, install=install))
    assert ended.status == 0, ended.stderr
    from forkproof.report import EventLines

    data = file.read_bytes()
    seen = [event.fork for event in EventLines().feed(data) if event.to_json()["event"] == "fork"]
    assert seen[0] == 1 and seen[-1] == 3, data


@pytest.mark.parametrize("stderr", ["os.close(2)", "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"])
def test_a_warning_that_cannot_be_written_breaks_no_fork(run: Run, stderr: str) -> None:
    body = f"{stderr}\nprint({{forked(lambda: must_be_free(mine)) for _ in range(3)}})"
    ended = run("-c", watched(HELD, body, install="forkproof.install(wait=0.01)"))
    assert ended.stdout == "{0}\n"
    assert ended.status in (0, 120), "120: the interpreter cannot flush what anybody wrote to sys.stderr"


# Takes all the memory that it is left, to the last byte.
HOARD = """
import os, resource
pages = int(open("/proc/self/statm").read().split()[0])
most = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {room}, most))
hoard, size = [], 1 << 20
while size:
    try:
        hoard.append(bytearray(size))
    except MemoryError:
        size //= 2
"""


@pytest.mark.parametrize("room", [0, 1 << 16, 1 << 20])
def test_without_memory_a_fork_fails_as_an_exception_or_not_at_all(run: Run, room: int) -> None:
    hoard = HOARD.format(room=room)
    if run("-c", hoard).status < 0:
        pytest.skip("this interpreter crashes by itself where memory is short, without a thread or a fork")
    forks = """
        ended = set()
        for _ in range(20):
            try:
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                ended.add(os.waitpid(pid, 0)[1])
            except (OSError, MemoryError):
                pass
        hoard.clear()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        free()
        print(ended <= {0})
    """
    ended = run("-c", watched(BUSY, hoard, forks))
    assert (ended.status, ended.stdout) == (0, "True\n"), ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Signals


def test_signals_at_any_moment(run: Run) -> None:
    """A handler that takes what is contested; the next signal comes two thousandths of a second after it has ended."""
    body = """
        import signal
        handled = 0
        def handle(*_):
            global handled
            handled += 1
            with lock:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0.002)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        ended = {forked(free) for _ in range(40)}
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        print(ended, handled > 0)
    """
    ended = run("-c", watched(BUSY, body))
    assert (ended.status, ended.stdout) == (0, "{0} True\n"), ended.stderr
    assert innocent(ended.stderr)


def test_a_handler_that_raises_at_any_moment_reaches_the_program(run: Run) -> None:
    """As KeyboardInterrupt does: never swallowed by a callback, and Forkproof stays on."""
    body = """
        import signal
        class Interrupt(BaseException):
            pass
        raised = caught = 0
        def handle(*_):
            global raised
            raised += 1
            raise Interrupt
        signal.signal(signal.SIGALRM, handle)
        for n in range(60):
            pid = None
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005 + n * 0.00005)
                    pid = os.fork()
                    if pid == 0:
                        os._exit(0)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                caught += 1
                if os.getpid() != parent:
                    os._exit(0)
        while True:
            try:
                assert os.wait()[1] == 0
            except ChildProcessError:
                break
        print(raised == caught, raised > 0, forked(free))
    """
    # Ignored, as what CPython itself runs to show a warning there would swallow an interrupt.
    install = "warnings.simplefilter('ignore'); forkproof.install(warn=False)"
    ended = run("-c", watched("parent = os.getpid()", BUSY, body, install=install))
    assert (ended.status, ended.stdout) == (0, "True True 0\n"), ended.stderr
    assert innocent(ended.stderr)


# ----------------------------------------------------------------------------------------------------------------------
# Too much of everything


def test_thousands_of_threads(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    body = """
        threading.stack_size(1 << 16)
        go = threading.Event()
        started = 0
        try:
            while started < 2000:
                thread(go.wait)
                started += 1
        except RuntimeError:
            pass                        # as many as are allowed here
        print(forked(lambda: must_be_free(mine)))
        go.set()
    """
    ended = run(
        "-c", watched(HELD, body, install=f"forkproof.install(warn=False, wait=0.1, events={str(file)!r})")
    )
    assert (ended.status, ended.stdout) == (0, "0\n"), ended.stderr
    [fork] = events(file, "fork")
    assert [hazard["what"] for hazard in fork["hazards"] if not hazard["cleared"]] == ["mine of <string>"]


def test_a_lock_in_each_of_two_hundred_and_twenty_frames(run: Run) -> None:
    """The child gets each of them."""
    body = """
        locks = [threading.Lock() for _ in range(220)]
        deep, go = threading.Event(), threading.Event()
        def descend(number):
            if number == len(locks):
                deep.set()
                go.wait()
                return
            with locks[number]:
                descend(number + 1)
        thread(descend, 0)
        deep.wait()
        print(forked(lambda: must_be_free(*locks)))
    """
    ended = run("-c", watched(body, install="forkproof.install(warn=False, wait=0.1)"))
    assert (ended.status, ended.stdout) == (0, "0\n"), ended.stderr


def test_a_fork_near_the_recursion_limit(run: Run) -> None:
    """CPython's own callbacks fit in the ten frames that are left, and what Forkproof does in Python does not."""
    body = """
        def deepest(number=0):
            try:
                return deepest(number + 1)
            except RecursionError:
                return number
        def descend(number):
            return os.fork() if number == 0 else descend(number - 1)
        most = deepest()
        pid = None
        for number in range(most - 10, 0, -1):
            try:
                pid = descend(number)
                break
            except RecursionError:
                pass
        if pid == 0:
            must_be_free(mine)
            os._exit(0)
        print(os.waitpid(pid, 0)[1], forked(lambda: must_be_free(mine)))
    """
    ended = run("-c", watched(HELD, body, install="forkproof.install(wait=0.01, warn=False)"))
    assert (ended.status, ended.stdout) == (0, "0 0\n"), ended.stderr
    assert innocent(ended.stderr)


# ----------------------------------------------------------------------------------------------------------------------
# Under tools that look into everything

TOOLS = {
    "a debugger's trace function": """
        import bdb
        class Debugger(bdb.Bdb):
            def user_line(self, frame):
                calls.append(1)
                self.set_next(frame)
        debugger = Debugger()
        debugger.reset()
        threading.settrace(debugger.trace_dispatch)
        sys.settrace(debugger.trace_dispatch)
    """,
    "a profile function": """
        def profile(frame, event, argument):
            calls.append(1)
        threading.setprofile(profile)
        sys.setprofile(profile)
    """,
    "cProfile": """
        import cProfile
        profiler = cProfile.Profile()
        profiler.enable()
        calls.append(1)
    """,
    "coverage": """
        import coverage
        measured = coverage.Coverage(data_file=None)
        measured.start()
        calls.append(1)
    """,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_under_a_tool_that_traces(run: Run, tool: str) -> None:
    body = """
        traced, profiled = sys.gettrace(), sys.getprofile()
        print({forked(free) for _ in range(10)}, bool(calls),
              (sys.gettrace(), sys.getprofile()) == (traced, profiled))
        sys.settrace(None)
        sys.setprofile(None)
    """
    ended = run("-c", watched("calls = []", TOOLS[tool], BUSY, body))
    assert (ended.status, ended.stdout) == (0, "{0} True True\n"), ended.stderr
    assert innocent(ended.stderr)
