"""`forkproof hunt`: a program again and again under other schedules, until it hangs; every run counted once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, Run, Start
from hypothesis import given
from hypothesis import strategies as st

from forkproof.lab.hunt import Account, Plan, Result
from forkproof.lab.hunted import sentences
from forkproof.lab.settings import Settings
from forkproof.lab.trial import Ended

HUNT = ("-m", "forkproof", "hunt", "--jobs", "2")

HANGS = """
import os, threading
taken, needed = threading.Event(), threading.Lock()
def hold():
    with needed:
        taken.set()
        threading.Event().wait(0.5)
threading.Thread(target=hold).start()
taken.wait()
if os.fork() == 0:
    with needed:
        os._exit(0)
os.wait()
"""

FORKS = """
import os
if os.fork() == 0:
    os._exit(0)
os.wait()
"""

GATE = """
import os, time
folder = os.environ["GATE"]
open(f"{folder}/{os.getpid()}.run", "w").close()
while not os.path.exists(f"{folder}/go"):
    time.sleep(0.01)
if os.fork() == 0:
    os._exit(0)
os.wait()
"""


def hunted(run: Run, folder: Path, program: str, *options: str) -> tuple[int, dict[str, Any]]:
    script = folder / "program.py"
    script.write_text(program)
    ended = run(*HUNT, "--json", *options, script, limit=120)
    return ended.status, json.loads(ended.stdout)


def test_a_hang_is_found_explained_and_had_again(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "hang.jsonl"
    status, result = hunted(
        run, tmp_path, HANGS, "--limit", "3", "--again", "2", "--events", str(events), "--runs", "50"
    )
    assert (status, result["outcomes"]["hung"] >= 1, result["again"]) == (1, True, {"runs": 2, "hung": 2})
    fork, hang = result["found"]["events"][:2]
    assert (fork["event"], fork["hazards"][0]["what"], fork["child"]) == (
        "fork",
        "needed of program.py",
        hang["pid"],
    )
    assert (hang["event"], hang["verdict"], hang["hazard"]["what"]) == (
        "hang",
        "proven",
        "needed of program.py",
    )
    kept = [json.loads(line) for line in events.read_text().splitlines()]
    assert hang in kept  # the whole file of that run
    told = run("-m", "forkproof", "report", events)
    assert "needed of program.py" in told.stdout


def test_a_person_is_told_the_settings_and_the_reason(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(HANGS)
    settings = "seed=7,switch=0.001,cores=1,load=1,fork=0.001"
    ended = run(
        *HUNT, "--limit", "3", "--again", "0", "--until-hang", "--settings", settings, script, limit=120
    )
    assert ended.status == 1
    assert f"To have it again: forkproof hunt --settings {settings}" in ended.stdout
    assert "proven (by record): at the fork, Thread-1 (hold) held: needed of program.py" in ended.stdout


def test_under_policy_wait_it_does_not_hang_and_how_rare_it_may_be_is_said(run: Run, tmp_path: Path) -> None:
    status, result = hunted(
        run, tmp_path, HANGS, "--policy", "wait", "--wait", "10", "--runs", "6", "--seed", "10"
    )
    assert (status, result["runs"], result["outcomes"], result["found"]) == (0, 6, {"finished": 6}, None)
    assert result["plain_runs"] == 1  # the fifth
    assert result["unseen_below"] == pytest.approx(1 - 0.05 ** (1 / 6))
    assert "With 95 % confidence fewer than 1 in 3 of such runs hang" in result["conclusion"][1]


def test_all_are_counted_if_it_is_to_keep_on(run: Run, tmp_path: Path) -> None:
    """Without Forkproof in the program, and nothing varied."""
    status, result = hunted(
        run, tmp_path, HANGS, "--keep-on", "--runs", "3", "--policy", "none", "--settings", "", "--limit", "2"
    )
    assert (status, result["runs"], result["outcomes"], result["again"]) == (1, 3, {"hung": 3}, None)
    assert result["plain_runs"] == 3


@pytest.mark.parametrize(
    ("program", "status", "says"),
    [
        ("1 / 0", 2, "The program fails: exit status 1 (ZeroDivisionError: division by zero)."),
        ("input()", 2, "it is given no input"),
        ("pass", 0, "No run made a fork that Python's hooks saw."),
    ],
)
def test_what_cannot_hang_is_said(run: Run, tmp_path: Path, program: str, status: int, says: str) -> None:
    ended, result = hunted(run, tmp_path, program, "--runs", "6")
    assert ended == status
    assert says in " ".join(result["conclusion"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--settings", "swich=1"), "'swich' is no setting; there are seed, switch,"),
        (("--settings", "cores=two"), "cores: a number expected, not 'two'"),
        (("--settings", "chance=2"), "chance: 2 is not possible"),
        (("--keep-on",), "--keep-on needs an end: --runs N"),
        (("--until-hang", "--runs", "3"), "leave out --runs and --keep-on"),
        (("--events", "/nowhere/at/all"), "cannot write events to '/nowhere/at/all'"),
        (("--dask", "tcp://127.0.0.1:9"), "--dask needs distributed"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(
    run: Run, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    if "--dask" in options:  # whether or not it is installed
        (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError(name='distributed')")
    ended = run(*HUNT, *options, "-c", FORKS, env={"PYTHONPATH": str(tmp_path)})
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr


def test_interrupted_it_says_what_it_has_and_leaves_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("ignored here (a job in the background)")
    monkeypatch.setenv("GATE", str(tmp_path))
    with start(*HUNT, "--limit", "60", "-c", GATE, limit=60) as program:
        program.until(lambda: any(tmp_path.glob("*.run")))
        os.kill(program.pid, signal.SIGINT)
        assert program.line() == "forkproof: None of 0 runs hung (scheduled otherwise in 0, as it is in 0)."
        assert program.end() == 130


# ----------------------------------------------------------------------------------------------------------------------
# What is varied


@given(st.integers(0, 1 << 40))
def test_settings_come_again_from_what_is_printed(seed: int) -> None:
    settings = Settings.drawn(seed)
    assert Settings.parse(str(settings)) == settings


def test_all_that_is_varied_is_varied_somewhere() -> None:
    drawn = [Settings.drawn(seed) for seed in range(40)]
    for name in ("switch", "cores", "load", "fork", "chance"):
        some = sum(bool(getattr(settings, name)) for settings in drawn)
        assert 5 < some < 35


DISTURBED = """
import os, sys, threading, time
from forkproof.lab.disturb import disturb
disturb({"seed": 1, **HOW})
"""


def disturbed(run: Run, how: str, code: str) -> str:
    ended = run("-c", DISTURBED.replace("HOW", how) + code)
    assert (ended.status, ended.stderr) == (0, "")
    return ended.stdout.strip()


def test_the_switch_interval_and_the_processors_are_as_asked(run: Run) -> None:
    cpu = min(os.sched_getaffinity(0))
    code = "print(sys.getswitchinterval(), os.sched_getaffinity(0))"
    assert disturbed(run, f"{{'switch': 0.25, 'cpus': [{cpu}]}}", code) == f"0.25 {{{cpu}}}"


def test_a_fork_is_held_up(run: Run) -> None:
    """For the time that the seed says, two seconds in all."""
    code = """
began = time.monotonic()
for _ in range(8):
    if os.fork() == 0: os._exit(0)
    os.wait()
print(time.monotonic() - began > 0.5)
"""
    assert disturbed(run, "{'fork': 1.0}", code) == "True"


LOCKED = """
lock = threading.Lock()
def use():
    global took
    with lock:
        began = time.monotonic()
LINES
        took = time.monotonic() - began
    lock.acquire(False) and lock.release()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(took > 0.1)
""".replace("LINES", "\n".join(f"        x{n} = {n}" for n in range(30)))


@pytest.mark.parametrize("body", ["with lock:", "if lock.acquire():"])
def test_a_thread_is_held_up_where_it_has_a_lock(run: Run, body: str) -> None:
    how = """{'chance': 1.0, 'delay': 0.05, 'opcodes': [__import__('dis').opmap.get(n, -1)
        for n in ('BEFORE_WITH', 'LOAD_SPECIAL')]}"""
    assert disturbed(run, how.replace("\n", " "), LOCKED.replace("with lock:", body)) == "True"


def test_a_function_without_locks_is_not_held_up(run: Run) -> None:
    how = "{'chance': 1.0, 'delay': 1.0, 'opcodes': [__import__('dis').opmap.get('BEFORE_WITH', -1)]}"
    code = """
def plain():
    began = time.process_time(), time.monotonic()
    x = 1
    y = 2
    return time.monotonic() - began[1]
print(min(plain() for _ in range(5)) < 0.5)
"""
    assert disturbed(run, how, code) == "True"


def test_a_module_is_held_up_while_it_is_imported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("\n".join(f"x{n} = {n}" for n in range(40)))
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
began = time.monotonic()
import slow
print(time.monotonic() - began > 0.5)
"""
    assert disturbed(run, "{'chance': 1.0, 'delay': 0.1, 'opcodes': []}", code) == "True"


# ----------------------------------------------------------------------------------------------------------------------
# The account


def result(number: int, outcome: Any = "finished") -> Result:
    return Result(number, Ended(outcome, 0, 0.1, ""), True)


def test_a_run_that_is_told_twice_counts_once() -> None:
    account = Account(Plan(line=("-c", "0")))
    for number in (1, 2, 2, 5, 1):
        account.take(result(number))
    assert (account.runs, account.outcomes["finished"], account.plain) == (3, 3, 1)


def test_the_rate_of_a_hang_has_its_interval() -> None:
    account = Account(Plan(line=("-c", "0"), settings=""))
    for number in range(1, 101):
        account.take(result(number, "hung" if number in (30, 60) else "finished"))
    told = [*sentences(account)]
    assert told[0].startswith("2 of 100 runs hung (nothing varied; ")
    assert "95 %: 1 in 14 to 1 in 182)." in told[0]
    assert told[1] == "Nothing was varied in that run."
    for number in range(101, 201):
        account.take(result(number, "hung"))
    assert "102 of 200 runs hung" in next(sentences(account))
    assert "95 %: 44% to 58%)." in next(sentences(account))


# ----------------------------------------------------------------------------------------------------------------------
# Many machines

CLUSTER = """
import json, sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, *(worker.pid for worker in cluster.workers.values()), flush=True)
        sys.stdin.readline()
"""


def pids_of(program: Program) -> tuple[str, list[int]]:
    address, *pids = program.line().split()
    return address, [int(pid) for pid in pids]


def test_no_run_is_lost_or_counted_twice_when_a_worker_is_killed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers all stand in a run when one of them is killed; then the runs may go on."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("GATE", str(tmp_path))
    cluster = tmp_path / "cluster.py"
    cluster.write_text(CLUSTER)
    script = tmp_path / "program.py"
    script.write_text(GATE)
    with start(cluster, limit=120) as machines:
        address, workers = pids_of(machines)
        with start(
            *HUNT[:3],
            "--dask",
            address,
            "--runs",
            "25",
            "--seed",
            "100",
            "--limit",
            "60",
            "--json",
            script,
            limit=120,
        ) as hunting:
            hunting.until(lambda: len(list(tmp_path.glob("*.run"))) == 3)
            os.kill(workers[0], signal.SIGKILL)
            (tmp_path / "go").touch()
            told = []
            while line := hunting.line():
                told.append(line)
            assert hunting.end() == 0
        machines.say("")
        machines.end()
    found = json.loads("\n".join(told))
    assert (found["runs"], found["outcomes"], found["plain_runs"]) == (25, {"finished": 25}, 5)
    assert len(list(tmp_path.glob("*.run"))) > 25  # what the killed one had begun was begun again


def test_a_hang_on_another_machine_is_explained_here(start: Start, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    cluster = tmp_path / "cluster.py"
    cluster.write_text(CLUSTER)
    with start(cluster, limit=120) as machines:
        address, _ = pids_of(machines)
        status, result = hunted(
            run, tmp_path, HANGS, "--dask", address, "--limit", "3", "--again", "1", "--runs", "9"
        )
        machines.say("")
        machines.end()
    assert (status, result["again"]["runs"]) == (1, 1)
    assert "needed of program.py" in json.dumps(result["found"]["events"])


def test_where_there_is_no_scheduler_it_is_said(run: Run) -> None:
    pytest.importorskip("distributed")
    ended = run(*HUNT, "--dask", "tcp://127.0.0.1:9", "-c", FORKS, limit=60)
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "no Dask scheduler at 'tcp://127.0.0.1:9'" in ended.stderr
