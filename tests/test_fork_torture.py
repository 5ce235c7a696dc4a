"""fork_torture: what is not fork-proof is found at the line, what is gets through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run

PRELUDE = """
import sys, threading, time
from forkproof import kit
from forkproof.testing.torture import Torture, TortureError

class Counter:
    def __init__(self, lock):
        self._lock = lock
        self.count = 0
    def add(self):
        self.prepare()
        with self._lock:
            self.count += 1
            self.finish()
    def prepare(self):
        pass
    def finish(self):
        pass

def torture(call, **options):
    try:
        print("through", Torture()(call, **{"forks": 40, **options}))
    except TortureError as error:
        print(error)
"""


def tortured(run: Run, body: str, cwd: Path | None = None) -> str:
    ended = run("-c", PRELUDE + body, cwd=cwd, limit=300)
    assert ended.status == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_who_held_what_and_where_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(PRELUDE)
    (tmp_path / "use.py").write_text(
        "from library import *\ncounter = Counter(threading.Lock())\ntorture(counter.add)\n"
    )
    ended = run("use.py", cwd=tmp_path, limit=300)
    assert ended.stdout.startswith("fork_torture: a child did not get through, 1 way (")
    line = PRELUDE.splitlines().index("            self.count += 1") + 1
    assert (
        f"forked while the call stood at {tmp_path}/library.py:{line} in Counter.add\nforkproof: "
        in ended.stdout
    )
    assert "torture held: self._lock of library.Counter\n" in ended.stdout
    assert f"taken at library.py:{line - 1} in add\n" in ended.stdout
    assert "proven (by record): at the fork, torture held: self._lock of library.Counter" in ended.stdout
    assert "forkproof/testing" not in ended.stdout, "how it was parked is not told"


def test_the_same_with_a_lock_of_the_kit_gets_through(run: Run) -> None:
    out = tortured(run, "torture(Counter(kit.Lock()).add)")
    assert re.fullmatch(r"through Tally\(moments=\d+, held=0, forks=\d+\)\n", out), out


def test_a_lock_that_no_frame_shows_is_found_by_the_line(run: Run) -> None:
    body = """
class Hidden(Counter):
    def take(self):
        self._lock.acquire()
    def add(self):
        self.take()
        self.count += 1
        self._lock.release()
torture(Hidden(threading.Lock()).add)
"""
    out = tortured(run, body)
    assert "in Hidden.add\n" in out
    assert "MainThread has stood still" in out


def test_a_library_that_takes_its_lock_before_the_fork_gets_through(run: Run) -> None:
    """The fork waits for the parked thread there, as in life it would for a running one."""
    body = """
import os
counter = Counter(threading.Lock())
os.register_at_fork(before=counter._lock.acquire, after_in_parent=counter._lock.release,
                    after_in_child=counter._lock.release)
torture(counter.add)
"""
    assert tortured(run, body).startswith("through Tally(")


def test_an_import_inside_of_the_call(run: Run, tmp_path: Path) -> None:
    (tmp_path / "lazily.py").write_text("VALUE = 1\nOTHER = 2\n")
    out = tortured(
        run, "import sys; sys.path.insert(0, '.')\ntorture(lambda: __import__('lazily'))", tmp_path
    )
    assert "torture held: import of lazily" in out


def test_what_a_child_raises_is_the_failure(run: Run) -> None:
    body = """
import os
parent = os.getpid()
mine = []
def check():
    if mine != [1]:
        raise LookupError("the child has what it should not")
def call():
    mine.append(1)
    time.sleep(0)
    mine.clear()
torture(call, check=check)
"""
    assert "LookupError: the child has what it should not" in tortured(run, body)


def test_moments_within_a_line(run: Run) -> None:
    body = """
lock = threading.Lock()
def call():
    with lock: return 1
if sys.argv[1:] == []:
    torture(call, each="instruction", forks=60)
"""
    assert "torture held: lock of " in tortured(run, body)


def test_random_moments_find_what_happens_inside_of_a_call_in_c(run: Run) -> None:
    """The file's own lock is held within one instruction, while the pipe behind it is full."""
    body = """
import subprocess
slow = "import os, time\\nwhile os.read(0, 65536): time.sleep(0.01)"
reader = subprocess.Popen([sys.executable, "-c", slow], stdin=subprocess.PIPE)
def call():
    reader.stdin.write(b"x" * 300_000)
torture(call, forks=40)
"""
    out = tortured(run, body)
    assert "held: BufferedWriter" in out, out


def test_a_call_that_fails_by_itself_is_an_error(run: Run) -> None:
    body = """
try:
    Torture()(lambda: 1 / 0)
except RuntimeError as error:
    print(error)
"""
    assert "ZeroDivisionError" in tortured(run, body)


def test_the_process_itself_is_left_as_it_was(run: Run) -> None:
    body = """
import os
from forkproof import guard
counter = Counter(threading.Lock())
before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
torture(counter.add)
assert (threading.active_count(), sorted(os.listdir("/proc/self/fd"))) == before
assert not guard._settings.installed and counter.count == 0 and not counter._lock.locked()
try:
    os.wait()
except ChildProcessError:
    print("as before")
"""
    assert tortured(run, body).endswith("as before\n")


def test_nothing_that_a_child_starts_is_waited_for_or_left(run: Run) -> None:
    """The fixture that marks processes fails this test if one of these sleepers is there at its end."""
    body = """
import os, signal
def check():
    if os.fork() == 0:
        signal.pause()
torture(int, check=check, forks=4)
"""
    assert tortured(run, body).startswith("through")


@pytest.mark.parametrize("options", [(), ("--forkproof",)])
def test_the_fixture(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "library.py").write_text(PRELUDE)
    (tmp_path / "test_it.py").write_text("""
import threading
from forkproof import kit
from library import Counter

def test_bad(fork_torture):
    fork_torture(Counter(threading.Lock()).add, forks=20)

def test_good(fork_torture):
    assert fork_torture(Counter(kit.Lock()).add, forks=20).forks >= 10
""")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    ended = run("-m", "pytest", "-p", "no:cacheprovider", *options, cwd=tmp_path, limit=300)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "torture held: self._lock of library.Counter" in ended.stdout
    assert "FAILED test_it.py::test_bad" in ended.stdout


def test_arguments_that_make_no_sense(run: Run) -> None:
    body = """
for options in {"each": "word"}, {"forks": 0}, {"threads": 0}:
    try:
        Torture()(int, **options)
    except ValueError as error:
        print(error)
"""
    assert len(tortured(run, body).splitlines()) == 3
