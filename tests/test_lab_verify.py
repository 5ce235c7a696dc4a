"""`forkproof verify`: which change makes a hang come and go, and what may be said of it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, Start

from forkproof.lab.conclude import conclude
from forkproof.lab.statistics import fewer, largest_unseen, wilson
from forkproof.lab.trial import Ended
from forkproof.lab.verify import AS_IT_IS, LATER, SAFE, WATCHED, Asked, Change, Laboratory, Row, Suspect
from forkproof.launch.target import Target
from forkproof.model import Fork, Frame, Hazard, Thread

VERIFY = ("-m", "forkproof", "verify", "--runs", "3", "--limit", "4", "--jobs", "4")

ONE = """
import os, threading, time
taken, needed = threading.Event(), threading.Lock()
def hold():
    with needed:
        taken.set()
        time.sleep(1)
threading.Thread(target=hold).start()
taken.wait()
pid = os.fork()
if pid == 0:
    with needed:
        os._exit(0)
"""

TWO = """
import os, threading, time
both = threading.Barrier(3)
needed, other = threading.Lock(), threading.Lock()
def hold_needed():
    with needed:
        both.wait()
        time.sleep(1.5)
def hold_other():
    with other:
        both.wait()
        time.sleep(0.2)
threading.Thread(target=hold_needed).start()
threading.Thread(target=hold_other).start()
both.wait()
if os.fork() == 0:
    with needed:
        os._exit(0)
os.wait()
"""

CHAIN = """
import os, threading, time
taken, first, second = threading.Event(), threading.Lock(), threading.Lock()
def hold():
    with first:
        taken.set()
        time.sleep(0.5)
    with second:
        time.sleep(0.5)
threading.Thread(target=hold).start()
taken.wait()
if os.fork() == 0:
    with first, second:
        os._exit(0)
os.wait()
"""

IMPORTS = """
import os, threading, time
from importlib import import_module
thread = threading.Thread(target=import_module, args=("slow",))
thread.start()
import sys
while "slow" not in sys.modules:
    time.sleep(0.001)
if os.fork() == 0:
    import slow
    os._exit(0)
os.wait()
"""

LOOKS_UP = """
import encodings.idna, os, socket, threading, time
threading.Thread(target=socket.getaddrinfo, args=("127.0.0.1", 80)).start()
time.sleep(0.2)
if os.fork() == 0:
    socket.getaddrinfo("127.0.0.1", 80)
    os._exit(0)
os.wait()
"""

FORKS_FIRST = """
import os, threading
pid = os.fork()
threading.Thread(target=int).start()
if pid == 0:
    os._exit(0)
os.wait()
"""

BY_MULTIPROCESSING = """
import multiprocessing, threading, time
taken, needed = threading.Event(), threading.Lock()
def hold():
    with needed:
        taken.set()
        time.sleep(1)
def child():
    with needed:
        pass
if __name__ == "__main__":
    threading.Thread(target=hold).start()
    taken.wait()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
"""


def verified(run: Run, folder: Path, program: str, *options: str) -> tuple[int, dict[str, Any]]:
    script = folder / "program.py"
    script.write_text(program)
    ended = run(*VERIFY, "--json", *options, script, limit=300)
    assert ended.stderr == ""
    return ended.status, json.loads(ended.stdout)


def hits(result: dict[str, Any], change: str) -> int:
    (row,) = (row for row in result["changes"] if row["change"] == change)
    return int(row["hung"] + row["busy"] + row["failed"])


def test_a_held_lock_is_convicted(run: Run, tmp_path: Path) -> None:
    """Also where the parent does not wait for its child; and nothing is left running (conftest sees to that)."""
    status, result = verified(run, tmp_path, ONE)
    assert (status, result["verdict"], result["causes"]) == (1, "convicted", ["needed of program.py"])
    assert hits(result, "as-it-is") == hits(result, "later") == 3
    assert hits(result, "only-1") == hits(result, "wait") == 0
    says = " ".join(result["conclusion"])
    assert (
        "0 of 3 when the fork waits for needed of program.py and for nothing else that is held then: that lock is the cause"
        in says
    )
    assert "program.py:7 in hold" in says


def test_of_two_locks_the_one_that_the_child_needs_is_convicted(run: Run, tmp_path: Path) -> None:
    _, result = verified(run, tmp_path, TWO, "--runs", "4")
    assert (result["verdict"], result["causes"]) == ("convicted", ["needed of program.py"])
    assert set(result["suspects"]) == {"needed of program.py", "other of program.py"}


def test_what_a_thread_takes_while_the_fork_waits_is_not_held_against_the_suspect(
    run: Run, tmp_path: Path
) -> None:
    """The child needs both, and only the first was held when the program came to fork."""
    _, result = verified(run, tmp_path, CHAIN)
    assert (result["verdict"], result["causes"]) == ("convicted", ["first of program.py"])
    assert hits(result, "only-1") == 0


def test_an_import_is_convicted_and_importing_it_first_cures(run: Run, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n")
    _, result = verified(run, tmp_path, IMPORTS)
    assert (result["verdict"], result["causes"]) == ("convicted", ["import of slow"])
    assert hits(result, "imported") == 0


def test_the_emulated_lock_is_convicted(run: Run, tmp_path: Path) -> None:
    _, result = verified(run, tmp_path, LOOKS_UP, "--emulate", "getaddrinfo-lock:1000")
    assert (result["verdict"], result["causes"]) == ("convicted", ["getaddrinfo"])


def test_what_hangs_only_with_the_emulated_lock_is_acquitted_here(run: Run, tmp_path: Path) -> None:
    status, result = verified(run, tmp_path, LOOKS_UP)
    assert (status, result["verdict"], result["causes"]) == (0, "acquitted", [])
    assert "lock" in [row["change"] for row in result["changes"]]


def test_a_program_that_forks_first_is_acquitted(run: Run, tmp_path: Path) -> None:
    status, result = verified(run, tmp_path, FORKS_FIRST)
    assert (status, result["verdict"]) == (0, "acquitted")
    assert "At none of 3 forks was another thread seen to hold anything." in result["conclusion"]


def test_the_start_methods_of_multiprocessing_are_tried(run: Run, tmp_path: Path) -> None:
    _, result = verified(run, tmp_path, BY_MULTIPROCESSING)
    assert result["causes"] == ["needed of program.py"]
    assert hits(result, "forkserver") == hits(result, "spawn") == 0


SERVER = """
import os, socket
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
if os.fork() == 0:
    os._exit(0)
server.accept()
"""


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print(1)", "The program made no fork that Python's hooks saw: there is nothing to vary."),
        (
            "input()",
            "The program fails, whatever is changed: exit status 1 (EOFError: EOF when reading a line); verify",
        ),
        (
            "import os\nif os.fork() == 0: os._exit(0)\nos.wait()\n1 / 0",
            "exit status 1 (ZeroDivisionError: division by zero).",
        ),
        (SERVER, "it looks like a server. verify needs a program that ends by itself."),
        ("import threading; threading.Event().wait()", "verify needs one that ends by itself (--limit)."),
    ],
)
def test_where_nothing_can_be_learnt_it_says_why(run: Run, tmp_path: Path, program: str, says: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    ended = run("-m", "forkproof", "verify", "--runs", "2", "--limit", "1.5", script, limit=120)
    assert (ended.status, ended.stderr) == (2, "")
    assert says in " ".join(ended.stdout.split())
    assert "rate" not in ended.stdout


def test_a_program_that_does_not_exist_is_one_line(run: Run, tmp_path: Path) -> None:
    ended = run(*VERIFY, tmp_path / "nope.py")
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_the_table_is_plain_text_where_nobody_watches(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(FORKS_FIRST)
    ended = run("-m", "forkproof", "verify", "--runs", "2", script, limit=120)
    first, *rows = ended.stdout.splitlines()
    assert first.split() == ["change", "hang", "fail", "finish", "rate", "(95", "%)", "median"]
    assert rows[0].split()[:6] == ["as", "it", "is", "0", "0", "2"]
    assert "\x1b" not in ended.stdout


TELLS = """
import os, threading
lock = threading.Lock()
lock.acquire()
if os.fork() == 0:
    os.setsid()
    open(f"{os.environ['TELLS']}/{os.getpid()}", "w").close()
lock.acquire()
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip("ignored here (a job in the background), and so in the program")
    monkeypatch.setenv("TELLS", str(tmp_path))
    with start(*VERIFY, "--limit", "60", "-c", TELLS, limit=60) as program:
        program.until(lambda: len(list(tmp_path.iterdir())) >= 2)
        os.kill(program.pid, signum)
        program.end()
        pids = [int(path.name) for path in tmp_path.iterdir()]
        program.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


# ---------------------------------------------------------------------------------------------------------------------
# What may be concluded from rows


def test_intervals_and_chances() -> None:
    assert [round(bound, 3) for bound in wilson(0, 8)] == [0.0, 0.324]
    assert [round(bound, 3) for bound in wilson(4, 8)] == [0.215, 0.785]
    assert wilson(0, 0) == (0.0, 1.0)
    assert fewer(0, 8, 8, 8) == pytest.approx(1 / 12870)
    assert fewer(8, 8, 8, 8) == 1
    assert fewer(1, 4, 3, 4) == pytest.approx((1 + 16) / 70)  # the lady tasting tea, upside down
    assert largest_unseen(59) == pytest.approx(0.0495, abs=0.0005)


HAZARD = Hazard(
    kind="held-lock",
    certainty="certain",
    what="lock of a",
    thread=Thread("worker"),
    stack=(Frame("/srv/a.py", 3, "work"),),
)


def laboratory(
    missed: dict[str, int] | None = None, **rows: tuple[int, int] | tuple[int, int, Hazard]
) -> Laboratory:
    """Rows of which so many of so many runs hang, as `only_1=(0, 8, hazard)`; at the watched forks all hazards were seen.

    missed  of a row's runs, how many (the hung ones first) came to their forks with only "lock of c" held
    """
    lab = Laboratory(Target(("-c", "0")), Asked(runs=8), lambda lab: None)
    basic = {change.key.replace("-", "_"): change for change in (AS_IT_IS, WATCHED, LATER, SAFE)}
    fork = Fork(
        time="", pid=1, fork=1, risk="certain", where=Frame("/srv/a.py", 9, "main"), hazards=(HAZARD,)
    )
    for name, (bad, runs, *hazard) in rows.items():
        key = name.replace("_", "-") if name != "as_it_is" else "as-it-is"
        suspect = Suspect((hazard[0].what,), hazard[0]) if hazard else None
        change = basic.get(name) or Change(key, key, "wait", suspect=suspect)
        ended = [Ended("hung", None, 9.0, "")] * bad + [Ended("finished", 0, 0.1, "")] * (runs - bad)
        less = (missed or {}).get(name, 0)
        met = [frozenset({"lock of c"})] * less + [frozenset({"lock of a", "lock of b"})] * (runs - less)
        lab.rows[key] = Row(change, runs, ended, [(fork,)] * runs, met if change.watched else [])
    return lab


def other(name: str) -> Hazard:
    return Hazard(kind="held-lock", certainty="certain", what=name, thread=Thread("worker"))


def test_a_thread_that_the_child_lacks_is_no_suspect() -> None:
    """It holds nothing, so there is nothing to wait for."""
    lab = laboratory(watched=(8, 8))
    worker = Hazard(
        kind="vanished-worker", certainty="certain", what="consumer of a queue", thread=Thread("worker")
    )
    row = lab.rows["watched"]
    row.forks = [(replace(fork, hazards=(worker, *fork.hazards)),) for (fork,) in row.forks]
    assert [suspect.name for suspect in lab.suspects(row)] == ["lock of a"]


def test_a_rare_hang_is_not_explained_by_few_runs() -> None:
    found = conclude(
        laboratory(as_it_is=(1, 8), watched=(1, 8), later=(0, 8), wait=(0, 8), only_1=(0, 8, HAZARD))
    )
    assert (found.verdict, found.causes) == ("open", ())
    assert "more are needed (--runs 44)" in found.sentences[1]


def test_two_that_each_end_it_are_not_told_apart() -> None:
    rows = laboratory(
        as_it_is=(8, 8), watched=(8, 8), later=(8, 8), wait=(0, 8),
        only_1=(0, 8, HAZARD), only_2=(0, 8, other("lock of b")),
        without_1=(0, 8, HAZARD), without_2=(0, 8, other("lock of b")),
    )  # fmt: skip
    found = conclude(rows)
    assert (found.verdict, found.causes) == ("open", ())
    assert "cannot tell which is" in " ".join(found.sentences)


def test_of_two_that_each_end_it_the_one_that_is_needed_is_the_cause() -> None:
    b = Suspect(("lock of b",), other("lock of b"))
    rows = laboratory(
        as_it_is=(8, 8), watched=(8, 8), later=(8, 8), wait=(0, 8), only_1=(0, 8, HAZARD), only_2=(0, 8, b.hazard),
        without_1=(8, 8, HAZARD), without_2=(0, 8, b.hazard),
    )  # fmt: skip
    assert conclude(rows).causes == ("lock of a",)


def test_a_cause_that_waiting_does_not_end_is_not_named() -> None:
    found = conclude(
        laboratory(as_it_is=(8, 8), watched=(8, 8), later=(7, 8), wait=(8, 8), only_1=(8, 8, HAZARD))
    )
    assert (found.verdict, found.causes) == ("open", ())
    assert (
        "8 of 8 under policy wait: what it waits for is not the cause, or not all of it." in found.sentences
    )


def test_runs_in_which_the_suspect_was_not_held_do_not_acquit_it() -> None:
    found = conclude(
        laboratory(
            {"only_1": 1}, as_it_is=(8, 8), watched=(8, 8), later=(8, 8), wait=(0, 8), only_1=(1, 8, HAZARD)
        )
    )
    assert (found.verdict, found.causes) == ("convicted", ("lock of a",))
    says = " ".join(found.sentences)
    assert "0 of 7 when the fork waits for lock of a" in says
    assert "that lock is a cause" in says
    assert (
        "In 1 more it was not held when the program came to fork, and 1 of those did hang, with lock of c held."
        in says
    )


def test_runs_in_which_it_was_not_held_do_not_convict_it_either() -> None:
    """It was held where nothing hangs, watched or waited for."""
    rows = laboratory(
        {"watched": 4, "only_1": 4}, as_it_is=(4, 8), watched=(4, 8), later=(4, 8), wait=(0, 8), only_1=(4, 8, HAZARD)
    )  # fmt: skip
    assert conclude(rows).causes == ()


def test_what_lessens_it_and_does_not_end_it_is_said_to_do_no_more() -> None:
    rows = laboratory(as_it_is=(8, 8), watched=(8, 8), later=(8, 8), wait=(0, 8), only_1=(2, 8, HAZARD))
    found = conclude(rows)
    assert (found.verdict, found.causes) == ("open", ())
    assert (
        "Waiting for one of these alone makes it less frequent and does not end it: lock of a (2 of 8, with lock of b held). "
        "What is left these runs do not explain." in found.sentences
    )


def test_runs_without_a_hang_say_how_rare_it_might_be() -> None:
    found = conclude(laboratory(as_it_is=(0, 8), watched=(0, 8), later=(0, 8), wait=(0, 8)))
    assert found.verdict == "acquitted"
    assert found.sentences[0].startswith(
        "None of 16 runs hangs as it is. (With so many, a hang in more than 17%"
    )
    assert "8 of 8 forks went ahead at risk (lock of a)" in found.sentences[1]
