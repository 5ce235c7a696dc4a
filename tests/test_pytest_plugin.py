"""`pytest --forkproof`: real runs of pytest as children, on small suites of which some fork at risk."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ended, Run

EXAMPLE = Path(__file__).parent.parent / "examples" / "pytest_project"

SUITE = """
import multiprocessing, os, queue, signal, sys, threading, time, warnings
import pytest

class App:
    def __init__(self):
        self._lock = threading.Lock()

app = App()

@pytest.fixture
def holder():
    "A thread that holds the lock of the app."
    taken, gate = threading.Event(), threading.Event()
    def keep():
        with app._lock:
            taken.set()
            gate.wait()
    thread = threading.Thread(target=keep, name="holder")
    thread.start()
    taken.wait()
    yield
    gate.set()
    thread.join()

def started(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return pid

def forked(child=int):
    "How the child ended."
    return os.waitstatus_to_exitcode(os.waitpid(started(child), 0)[1])

def use():
    with app._lock:
        pass

def test_safe():
    assert forked() == 0
"""

Suite = Callable[..., Ended]


@pytest.fixture
def suite(run: Run, tmp_path: Path) -> Suite:
    """Run pytest on SUITE and more tests: `suite(tests, *options, ini=...)`."""

    def suite(tests: str, *options: str, ini: str = "", limit: float = 300) -> Ended:
        (tmp_path / "test_it.py").write_text(SUITE + tests)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = -p no:cacheprovider\n{ini}\n")
        return run("-m", "pytest", *options, cwd=tmp_path, limit=limit)

    return suite


def summary(ended: Ended) -> str:
    """What the summary says, after `forkproof: `."""
    found = re.findall(r"^forkproof: (\d+ forks? in .*)$", ended.stdout, re.MULTILINE)
    assert len(found) == 1, ended.stdout + ended.stderr
    return str(found[0])


def outcomes(ended: Ended) -> str:
    """How many tests ended how; CPython warns at forks of threaded processes from 3.12 on, which is left out."""
    found = re.findall(r"^=+ (.*) in [\d.]+s.* =+$", ended.stdout, re.MULTILINE)
    assert len(found) == 1, ended.stdout + ended.stderr
    return re.sub(r", \d+ warnings?", "", str(found[0]))


AT_RISK = """
def test_at_risk(holder):
    assert forked() == 0
"""


def test_a_test_that_forks_at_risk_fails_and_says_who_had_what_where(suite: Suite) -> None:
    ended = suite(AT_RISK, "--forkproof")
    assert ended.status == 1
    assert outcomes(ended) == "1 failed, 1 passed"
    assert summary(ended) == "2 forks in 2 tests, 1 at risk, 0 hung"
    text = ended.stdout
    assert re.search(r"test_it.py:\d+ in started: fork \d+ .* went ahead at risk", text), text
    assert "holder held: app._lock of test_it" in text
    assert re.search(r"taken at test_it.py:\d+ in keep\n\s+\d+ .* with app._lock:", text), text
    assert "help: " in text
    assert "if no child needs that: @pytest.mark.forkproof(allow='app._lock of test_it')" in text
    assert "FAILED test_it.py::test_at_risk" in text


def test_without_the_option_nothing_is_watched_and_nothing_imported(suite: Suite) -> None:
    tests = """
def test_off(holder):
    assert forked() == 0
    loaded = [name for name in sys.modules if name.startswith("forkproof")]
    assert sorted(loaded) == ["forkproof", "forkproof._errors", "forkproof.testing", "forkproof.testing.plugin"]
"""
    ended = suite(tests)
    assert (ended.status, outcomes(ended)) == (0, "2 passed")
    assert "forkproof:" not in ended.stdout


def test_a_project_can_switch_it_on(suite: Suite) -> None:
    ended = suite(AT_RISK, ini="forkproof = true\nforkproof_hang_after = 7")
    assert summary(ended) == "2 forks in 2 tests, 1 at risk, 0 hung"
    assert "forkproof: policy observe, on risk fail, hang after 7 s" in ended.stdout


HANGS = """
def test_waitpid(holder):
    assert forked(use) == -signal.SIGKILL
    here.append(1)

def test_join(holder):
    process = multiprocessing.get_context("fork").Process(target=use)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    here.append(2)

def test_a_queue_that_nobody_fills():
    "Nothing is at risk at this fork: the child waits for what nobody there will ever do."
    assert forked(queue.Queue().get) == -signal.SIGKILL
    here.append(3)

def test_it_failed_by_itself(holder):
    assert forked(use) == 0, "the reason of its own"

here = []
def test_all_went_on():
    assert here == [1, 2, 3]
"""


def test_a_child_that_hangs_is_killed_and_its_explanation_is_the_failure(suite: Suite) -> None:
    ended = suite(HANGS, "--forkproof", ini="forkproof_hang_after = 1")
    assert outcomes(ended) == "4 failed, 2 passed"
    assert summary(ended) == "5 forks in 5 tests, 3 at risk, 4 hung"
    text = ended.stdout
    assert text.count("waits for: app._lock of test_it") == 3
    assert text.count("proven (by record): at the fork, holder held: app._lock of test_it") == 3
    assert "waits for: an item of a queue.Queue" in text
    assert "the reason of its own" in text
    assert "_pytest" not in text, "how pytest came to the test is not told"
    assert "Fatal Python error" not in text + ended.stderr


def test_a_failure_of_its_own_keeps_its_traceback(suite: Suite) -> None:
    tests = """
def test_at_risk(holder):
    forked()
    assert 1 == 2, "quite another thing"

def test_skipped(holder):
    forked()
    pytest.skip("after all")

@pytest.mark.xfail(strict=True)
def test_known(holder):
    forked()
    assert False
"""
    ended = suite(tests, "--forkproof")
    assert outcomes(ended) == "1 failed, 1 passed, 1 skipped, 1 xfailed"
    assert re.search(r"^>\s+assert 1 == 2", ended.stdout, re.MULTILINE), ended.stdout
    assert "holder held: app._lock of test_it" in ended.stdout
    assert summary(ended) == "4 forks in 4 tests, 3 at risk, 0 hung"


def test_forks_of_fixtures_count(suite: Suite) -> None:
    tests = """
@pytest.fixture
def early(holder):
    forked()
    yield

@pytest.fixture
def late(holder):
    yield
    forked()

def test_early(early): pass
def test_late(late): pass
"""
    ended = suite(tests, "--forkproof")
    assert outcomes(ended) == "2 passed, 2 errors"
    assert summary(ended) == "3 forks in 3 tests, 2 at risk, 0 hung"


@pytest.mark.parametrize(("every", "outcome"), [("default", "2 passed"), ("error", "1 failed, 1 passed")])
def test_a_fork_at_risk_can_be_a_warning(suite: Suite, every: str, outcome: str) -> None:
    # CPython's own warning about forks and threads (3.12 on) is kept for a fork at risk, and not meant here.
    filters = f"filterwarnings =\n    {every}\n    ignore:This process:DeprecationWarning"
    ended = suite(AT_RISK, "--forkproof", ini=f"forkproof_on_risk = warn\n{filters}")
    assert outcomes(ended) == outcome
    assert "ForkRiskWarning: forkproof: test_it.py" in ended.stdout, ended.stdout
    assert summary(ended) == "2 forks in 2 tests, 1 at risk, 0 hung"


def test_a_fork_at_risk_can_be_ignored_and_a_hang_cannot(suite: Suite) -> None:
    tests = AT_RISK + "\ndef test_hang(holder): forked(use)\n"
    ended = suite(tests, "--forkproof", ini="forkproof_on_risk = ignore\nforkproof_hang_after = 1")
    assert outcomes(ended).startswith("1 failed, 2 passed")
    assert summary(ended) == "3 forks in 3 tests, 2 at risk, 1 hung"


def test_a_test_can_allow_what_it_knows(suite: Suite) -> None:
    tests = """
@pytest.mark.forkproof(allow="app._lock of *", reason="no child uses the app")
def test_by_name(holder): forked()

@pytest.mark.forkproof(allow=["import-lock", "held-lock"])
def test_by_kind(holder): forked()

@pytest.mark.forkproof(allow="app._lock of other")
def test_of_another(holder): forked()

@pytest.mark.forkproof(allow="*", hang_after=1)
def test_a_hang_is_not_allowed(holder): forked(use)

@pytest.mark.forkproof(policy="raise")
def test_refused(holder):
    import forkproof
    with pytest.raises(forkproof.ForkRiskError):
        forked()

@pytest.mark.forkproof(on_risk="ignore")
class TestMany:
    def test_ignored(self, holder): forked()
    @pytest.mark.forkproof(on_risk="fail")
    def test_nearer(self, holder): forked()

def test_as_before(holder): forked()
"""
    ended = suite(tests, "--forkproof", "--strict-markers")
    failed = re.findall(r"^(?:FAILED|ERROR) test_it.py::(\S+)", ended.stdout, re.MULTILINE)
    assert failed == [
        "test_of_another", "test_a_hang_is_not_allowed", "test_refused", "TestMany::test_nearer",
        "test_as_before",
    ], ended.stdout  # fmt: skip


def test_a_project_can_allow_what_it_knows(suite: Suite) -> None:
    ended = suite(AT_RISK, "--forkproof", ini="forkproof_allow =\n    import of *\n    app._lock of test_*")
    assert outcomes(ended).startswith("2 passed")
    assert summary(ended) == "2 forks in 2 tests, 0 at risk (1 more allowed), 0 hung"


def test_under_wait_what_can_be_waited_for_is_no_risk(suite: Suite) -> None:
    tests = """
def test_busy():
    ending = threading.Event()
    def work():
        while not ending.is_set():
            with app._lock:
                time.sleep(0.001)
    thread = threading.Thread(target=work)
    thread.start()
    assert [forked(use) for _ in range(10)] == [0] * 10
    ending.set()
    thread.join()
"""
    ended = suite(tests, "--forkproof", ini="forkproof_policy = wait\nforkproof_wait = 60")
    assert outcomes(ended).startswith("2 passed")
    assert summary(ended) == "11 forks in 2 tests, 0 at risk, 0 hung"


def test_a_hang_after_the_test_ended_fails_the_run(suite: Suite) -> None:
    tests = """
@pytest.mark.forkproof(allow="*")
def test_leaves_one_behind(holder):
    global pid
    pid = started(use)

def test_another():
    os.waitpid(pid, 0)
"""
    ended = suite(tests, "--forkproof", ini="forkproof_hang_after = 1")
    assert outcomes(ended).startswith("3 passed")
    assert ended.status == 1
    assert summary(ended) == "2 forks in 2 tests, 0 at risk (1 more allowed), 1 hung"
    after = ended.stdout.partition("forkproof: after their tests had ended")[2]
    assert "test_it.py::test_leaves_one_behind:\nforkproof: " in after
    assert "waits for: app._lock of test_it" in after


def test_a_child_can_be_given_a_limit(suite: Suite) -> None:
    """It waits for the system, of which nothing can be proven."""
    tests = """
def test_waits_for_an_answer():
    reading, writing = os.pipe()
    assert forked(lambda: os.read(reading, 1)) == -signal.SIGKILL

def test_os_wait_finds_no_child_of_ours():
    with pytest.raises(ChildProcessError):
        os.wait()
"""
    ended = suite(tests, "--forkproof", ini="forkproof_child_limit = 8")
    assert outcomes(ended) == "1 failed, 2 passed"
    assert summary(ended) == "2 forks in 2 tests, 0 at risk, 1 hung"
    assert "forkproof_child_limit is how long a forked child may live" in ended.stdout


def test_what_makes_no_sense_is_said_at_once(suite: Suite) -> None:
    ended = suite("", "--forkproof", ini="forkproof_policy = hope")
    assert ended.status == 4
    assert "forkproof: policy must be one of observe, wait, raise, not 'hope'" in ended.stderr
    ended = suite("", "--forkproof", ini="forkproof_hang_after = soon")
    assert (ended.status, "forkproof: could not convert" in ended.stderr) == (4, True)
    ended = suite("@pytest.mark.forkproof(alow='*')\ndef test_it(): pass", "--forkproof")
    assert ended.status == 4
    assert "test_it.py::test_it: mark forkproof: " in ended.stderr
    assert "unexpected keyword argument 'alow'" in ended.stderr


def test_with_xdist_coverage_and_every_warning_an_error(suite: Suite) -> None:
    """Workers watch, the summary is of all; a safe fork of a threaded process does not fail by CPython's warning."""
    tests = """
def test_threads_that_hold_nothing():
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    assert forked() == 0
    gate.set()
    thread.join()

@pytest.mark.parametrize("number", range(6))
def test_many(number):
    assert forked() == 0

@pytest.mark.filterwarnings("ignore:This process")  # from 3.15 on os.fork() itself would raise it, at this fork at risk
def test_hang(holder):
    assert forked(use) == 0
"""
    options = (
        "--forkproof", "-n", "2", "--cov=test_it", "--cov-report=term", "-p", "no:threadexception", "-W",
        "ignore:This process:DeprecationWarning" if sys.version_info < (3, 12) else "error",
    )  # fmt: skip
    ended = suite(tests, *options, ini="filterwarnings = error\nforkproof_hang_after = 1")
    assert outcomes(ended) == "1 failed, 8 passed", ended.stdout + ended.stderr
    assert summary(ended) == "9 forks in 9 tests, 1 at risk, 1 hung"
    assert "holder held: app._lock of test_it" in ended.stdout
    assert re.search(r"^test_it.py\s+\d+", ended.stdout, re.MULTILINE), "coverage's table"


def test_afterwards_all_is_as_it_was(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE + AT_RISK)
    program = """
import gc, os, sys, threading, warnings, pytest
import forkproof.guard as guard

def marker(): pass
os.register_at_fork(before=marker, after_in_parent=marker, after_in_child=marker)

def state():
    found = [hooks for hooks in gc.get_referrers(marker) if type(hooks) is list]
    hooks = sorted(len(hooks) for hooks in found)
    return hooks, list(warnings.filters), guard._settings.installed, threading.active_count()

def check():
    before = state()
    assert len(before[0]) == 3
    assert pytest.main(["-q", "-p", "no:cacheprovider", "--forkproof", "test_it.py"]) == 1
    after = state()
    assert len(after) == len(before)
    for was, now in zip(before, after):
        assert now == was, (was, now)

pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"])  # what it imports registers callbacks of its own
check()
guard.install("wait", 2.0, events=None)
check()
assert guard._settings.wait == 2.0 and guard._settings.writer is None and guard._settings.on_hang == "report"
print("as before")
"""
    ended = run("-c", program, cwd=tmp_path, limit=300)
    assert ended.stdout.endswith("as before\n"), ended.stdout + ended.stderr


@pytest.mark.parametrize("variant", ["risky", "mended"])
def test_the_example_project(run: Run, variant: str) -> None:
    options = ("--forkproof", "-p", "no:cacheprovider", "-o", f"pythonpath={variant}")
    ended = run("-m", "pytest", *options, cwd=EXAMPLE, limit=300, env={"PYTHONDONTWRITEBYTECODE": "1"})
    if variant == "mended":
        assert (outcomes(ended), ended.status) == ("10 passed", 0)
        assert summary(ended) == "4 forks in 2 tests, 0 at risk, 0 hung"
    else:
        assert (outcomes(ended), ended.status) == ("1 failed, 9 passed", 1)
        assert "price refresher held: self._lock of shop.Prices" in ended.stdout
        assert summary(ended) == "4 forks in 2 tests, 2 at risk, 2 hung"
