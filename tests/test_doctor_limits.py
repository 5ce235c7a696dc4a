"""What the doctor cannot look at: one clear line, and exit status 2; and what looking costs the process: nothing that stays."""

from __future__ import annotations

import ctypes
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
from doctoring import PRELUDE, examine, looked_at

from forkproof.doctor.errors import DoctorError
from forkproof.doctor.process import Process, family


def refused(run: Run, *options: str | int) -> str:
    """What the doctor says on stderr, in one line, when it cannot look."""
    ended = run("-m", "forkproof", "doctor", *map(str, options))
    assert (ended.status, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("forkproof: ")
    return line


def test_no_such_process(run: Run) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert f"there is no process {process.pid}" in refused(run, process.pid)


def test_no_process_named(run: Run) -> None:
    assert "which process?" in refused(run)


def test_not_python(run: Run) -> None:
    sleeper = subprocess.Popen(["sleep", "100"])
    try:
        assert "is not a Python program" in refused(run, sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_zombie(run: Run) -> None:
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert "ended" in refused(run, zombie.pid)
    finally:
        zombie.wait()


def test_not_a_core_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "not a core file" in refused(run, "--core", str(tmp_path / "text"))


NOBODY = 65534


def said_to_nobody(pid: int, scope: int | None = None) -> str:
    """What an unprivileged user is told who examines `pid`, with Yama's setting as it is or, in a mount of its own, as given."""
    reading, writing = os.pipe()
    examining = os.fork()
    if not examining:
        said = "nothing"
        try:
            if scope is not None:
                libc = ctypes.CDLL(None, use_errno=True)
                new_mounts, private_and_all_below = 0x20000, 0x44000
                assert libc.unshare(new_mounts) == 0, ctypes.get_errno()
                assert libc.mount(None, b"/", None, private_and_all_below, None) == 0
                assert libc.mount(b"none", b"/proc/sys/kernel", b"tmpfs", 0, None) == 0
                os.mkdir("/proc/sys/kernel/yama")
                Path("/proc/sys/kernel/yama/ptrace_scope").write_text(f"{scope}\n")
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = examine(pid).cause
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.waitpid(examining, 0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        return pipe.read()


def test_a_process_of_another_user(start: Start) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    with start("-c", PRELUDE + "tell(os.getpid()); time.sleep(1000)") as program:
        program.line()
        said = said_to_nobody(program.pid)
    assert said.startswith("Forbidden:")
    assert "belongs to another user" in said
    assert "as root or as user 0" in said


# A process that may not be dumped is refused as one is that Yama protects: of the same user, and root may look at it.
NOT_DUMPABLE = f"""
import ctypes
os.setgid({NOBODY})
os.setuid({NOBODY})
PR_SET_DUMPABLE = 4
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
tell(os.getpid())
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (None, "more privileges than the doctor, or is not dumpable; run the doctor as root"),
        (1, "for descendants only (kernel.yama.ptrace_scope is 1)"),
        (2, "to root only (kernel.yama.ptrace_scope is 2)"),
        (3, "kernel.yama.ptrace_scope is 3, which forbids it to everybody"),
    ],
)
def test_a_process_of_the_same_user_that_is_protected(start: Start, scope: int | None, words: str) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    if scope is None and os.path.exists("/proc/sys/kernel/yama"):
        scope = 0
    with start("-c", PRELUDE + NOT_DUMPABLE) as program:
        program.line()
        said = said_to_nobody(program.pid, scope)
        if said.startswith("AssertionError"):
            pytest.skip("needs mounts of its own")
        as_root = examine(program.pid)
    assert said.startswith("Forbidden:") and words in said
    assert as_root.verdict == "none"


def test_root_of_a_container_without_the_capability(start: Start) -> None:
    dropping = shutil.which("setpriv")
    if os.geteuid() or not dropping:
        pytest.skip("needs root, and setpriv")
    with start("-c", PRELUDE + "tell(os.getpid()); time.sleep(1000)") as program:
        program.line()
        command = [dropping, "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
        command += [sys.executable, "-m", "forkproof", "doctor", str(program.pid)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--cap-add=SYS_PTRACE" in ended.stderr


def test_a_process_of_another_pid_namespace(start: Start) -> None:
    """As one in a container, seen from the host: its threads have other ids for itself, and it may be unwound from inside only."""
    tool = shutil.which("unshare")
    if not tool or subprocess.run([tool, "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root, and unshare")
    program = """
    lock = threading.RLock()
    hold_among_others(lock)
    def waits():
        thread(lambda: [time.sleep(0.01) for _ in range(100000)])
        with lock: pass
    child(waits)
    """
    inside = [
        tool,
        "--pid",
        "--fork",
        "--kill-child",
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PRELUDE + dedent(program),
    ]
    with start("-c", f"import os; os.execvp({tool!r}, {inside!r})") as running:
        assert int(running.line()) < 10  # in there it is one of the first

        def descendants() -> list[int]:
            return [pid for pid in family(running.pid) if len(Path(f"/proc/{pid}/cmdline").read_text()) > 0]

        running.until(lambda: len(descendants()) == 3)
        pid = descendants()[-1]
        running.until(lambda: examine(pid).verdict != "none")
        found = examine(pid)
    assert (found.verdict, found.proof) == ("proven", "owner"), found
    assert found.threads[0].thread.native_id == pid
    assert any("no native stacks" in note for note in found.notes)


def test_one_that_ends_while_it_is_read(start: Start) -> None:
    """Again and again at another moment: either a diagnosis, or the one line."""
    for after in range(0, 400, 40):
        with start(
            "-c", PRELUDE + f"thread(time.sleep, 9); tell(os.getpid()); time.sleep({after / 1000})"
        ) as program:
            program.line()
            try:
                said = examine(program.pid).cause
            except DoctorError as error:
                said = str(error)
            assert said.count("\n") == 0 and "no thread of this process can" not in said


def test_without_stacks_there_is_still_native_evidence(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an interpreter that the reader does not know; here the reader cannot even be imported."""
    (tmp_path / "pystack.py").write_text("raise ImportError")
    program = """
    lock = threading.Lock()
    hold(lock)
    def waits():
        with lock: pass
    child(waits)
    """
    with looked_at(start, program) as pid:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        found = examine(pid)
    assert (found.verdict, found.proof, found.python) == ("proven", "closed-world", None)
    assert any("native evidence only" in note for note in found.notes)


def test_no_value_of_a_local_gets_into_the_report(run: Run, start: Start, tmp_path: Path) -> None:
    app = """
lock = threading.RLock()
hold(lock)
def waits(password, token):
    secret = {"key": password}
    with lock: pass
child(lambda: waits("-".join(("sesame", "open")), b"-".join((b"sesame", b"open"))))
"""
    (tmp_path / "app.py").write_text(PRELUDE + app)
    with start(tmp_path / "app.py") as program:
        pid = program.line()
        time.sleep(0.5)
        plain = run("-m", "forkproof", "doctor", pid)
        as_json = run("-m", "forkproof", "doctor", "--json", pid)
    assert (plain.status, as_json.status) == (1, 1)
    assert "sesame-open" not in plain.stdout + plain.stderr + as_json.stdout + as_json.stderr


def test_nothing_in_the_process_is_changed(start: Start) -> None:
    """No signal reaches it, its threads run on, its memory maps and descriptors are what they were."""
    program = """
    import signal
    seen = []
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR2}:
        try: signal.signal(number, lambda got, frame: seen.append(got))
        except (OSError, ValueError): pass
    signal.signal(signal.SIGUSR2, lambda *_: (print("seen", seen, flush=True), os._exit(0)))
    thread(threading.Event().wait)   # stands still, so that the process is stopped for its native frames
    tell(os.getpid())
    while True: time.sleep(0.01)
    """
    with start("-c", PRELUDE + dedent(program)) as running:
        pid = int(running.line())

        def shape() -> tuple[list[str], list[str], str]:
            maps = [line.split()[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            return maps, sorted(os.listdir(f"/proc/{pid}/fd")), status["TracerPid"].strip() + status["SigCgt"]

        time.sleep(0.3)
        before = shape()
        for _ in range(3):
            found = examine(pid)
            assert any(
                frame.line is None for view in found.threads for frame in view.stack
            )  # native: it was stopped
        assert shape() == before
        with Process(pid) as process:
            assert all(task.state not in "Tt" for task in process.tasks())
        os.kill(pid, signal.SIGUSR2)
        assert running.line() == "seen []"
