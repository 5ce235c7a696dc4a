"""Switched on from the environment, and for multiprocessing by a context."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run

ASK = "import sys; guard = sys.modules.get('forkproof.guard'); s = guard and guard._settings; "

# A thread has a lock at the fork and gives it back when a byte comes; the child needs the lock.
RISKY = """
import os, sys, threading
lock, held, go = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock:
        held.set()
        go.wait(0.3)
thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    os._exit(0 if lock.acquire(timeout=20) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        ("on", "True wait 1.0 True 5.0 report True"),
        ("policy=observe", "True observe 1.0 True 5.0 report True"),
        (" wait = 0.5 , repair=no,hang_after=inf", "True wait 0.5 False inf report True"),
        ("on_hang=kill,warn=off", "True wait 1.0 True 5.0 kill False"),
    ],
)
def test_every_interpreter_started_with_the_variable_has_it_on(run: Run, variable: str, seen: str) -> None:
    tell = ASK + "print(s.installed, s.policy, s.wait, s.repair, s.hang_after, s.on_hang, s.warn)"
    ended = run("-c", tell, env={"FORKPROOF": variable})
    assert (ended.stdout, ended.stderr) == (seen + "\n", "")


@pytest.mark.parametrize("variable", [None, ""])
def test_else_nothing_of_it_is_imported(run: Run, variable: str | None) -> None:
    tell = "import sys; print([name for name in sys.modules if 'forkproof' in name])"
    ended = run("-W", "error", "-c", tell, env={"FORKPROOF": variable})
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.parametrize("variable", ["off", "0", "No"])
def test_it_can_be_said_to_be_off(run: Run, variable: str) -> None:
    ended = run("-W", "error", "-c", ASK + "print(bool(s and s.installed))", env={"FORKPROOF": variable})
    assert (ended.stdout, ended.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("polcy=wait", "there is no setting 'polcy'; there are policy, wait, .*"),
        ("policy=wait,policy=raise", "policy is given twice"),
        ("policy=waitt", "policy must be 'observe', 'wait' or 'raise', not 'waitt'"),
        ("wait=soon", "wait must be a number of seconds, not 'soon'"),
        ("wait=-1", "wait must be between 0 and 3600 seconds, not -1.0"),
        ("repair=perhaps", "repair must be yes or no, not 'perhaps'"),
        ("maybe", "'maybe' is not name=value"),
        ("events=/no/such/folder/f", "cannot write events to '/no/such/folder/f': No such file or directory"),
    ],
)
def test_what_cannot_be_is_one_line_and_the_program_runs(run: Run, variable: str, line: str) -> None:
    ended = run("-W", "error", "-c", ASK + "print(bool(s and s.installed))", env={"FORKPROOF": variable})
    assert (ended.status, ended.stdout) == (0, "False\n")
    assert re.fullmatch(f"forkproof: off; FORKPROOF: {line}\n", ended.stderr), ended.stderr


def test_a_program_that_imports_it_has_it_on_without_the_variable(run: Run) -> None:
    ended = run("-c", "import forkproof.auto; " + ASK + "print(s.installed)")
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_it_starts_where_nobody_reads_its_line(run: Run) -> None:
    ended = run("-c", "import os; os.write(1, b'on')", env={"FORKPROOF": "wait=x", "PYTHONSTARTUP": None})
    assert ended.stdout == "on"
    closed = "import os, subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'print(1)'], preexec_fn=lambda: os.close(2)).returncode)"
    assert run("-W", "ignore", "-c", closed, env={"FORKPROOF": "wait=x"}).status == 0


def test_the_forks_are_made_safe(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    ended = run("-c", RISKY, env={"FORKPROOF": f"wait=30,events={events}"})
    assert (ended.stdout, ended.stderr) == ("0\n", "")
    (fork,) = [
        event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "fork"
    ]
    assert (fork["risk"], fork["outcome"]) == ("none", "waited")


def test_run_has_its_own_settings(run: Run) -> None:
    command = ("-m", "forkproof", "run", "--policy", "observe", "-c", ASK + "print(s.policy)")
    assert run(*command, env={"FORKPROOF": "policy=wait"}).stdout == "observe\n"


POOL = """
import multiprocessing, sys, threading
from concurrent.futures import ProcessPoolExecutor
import forkproof
lock, held = threading.Lock(), threading.Event()
def hold():
    with lock:
        held.set()
        threading.Event().wait(0.3)
def needs(_):
    with lock:
        return multiprocessing.current_process().name.partition("-")[0]
if __name__ == "__main__":
    threading.Thread(target=hold).start()
    held.wait()
    with ProcessPoolExecutor(2, mp_context=forkproof.get_context()) as pool:
        print(set(pool.map(needs, range(20))))
    print(forkproof.get_context().get_start_method())
"""


def test_a_pool_with_its_context_forks_and_its_workers_find_the_lock_free(run: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(POOL)
    ended = run("-W", "error", tmp_path / "program.py", env={"FORKPROOF": "wait=30"})
    assert (ended.status, ended.stdout, ended.stderr) == (0, "{'ForkProcess'}\nfork\n", "")


def test_a_context_switches_it_on(run: Run) -> None:
    ended = run("-c", "import forkproof; forkproof.get_context(); " + ASK + "print(s.installed, s.policy)")
    assert ended.stdout == "True wait\n"
