"""`forkproof watch` beside a service: what it says, whom it ends, and what its exit status means."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Run, Start
from doctoring import PRELUDE, looked_at

HANGS = """
    lock = threading.Lock()
    hold(lock)
    pid = os.fork()
    if not pid:
        lock.acquire()
        os._exit(0)
    tell(%s)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
SLEEPS = "tell(os.getpid()); time.sleep(1000)"


def _watch(run: Run, *options: str | int, limit: float = 60) -> tuple[int, str, str]:
    ended = run("-m", "forkproof", "watch", *map(str, options), limit=limit)
    return ended.status, ended.stdout, ended.stderr


def test_a_probe_fails_for_a_service_with_a_child_that_hangs(run: Run, start: Start) -> None:
    with looked_at(start, HANGS % "os.getpid()", still=False, limit=90) as pid:
        status, told, _ = _watch(run, "--once", "--hang-after", 1, "--json", pid)
    (found,) = map(json.loads, told.splitlines())
    assert (status, found["verdict"] in ("proven", "likely")) == (1, True)
    assert found["origin"]["parent"] == pid


def test_a_probe_passes_for_one_that_is_well(run: Run, start: Start) -> None:
    with looked_at(start, SLEEPS) as pid:
        assert _watch(run, "--once", "--hang-after", 1, pid) == (0, "", "")


def test_asked_to_it_ends_the_child_that_hangs_and_stops_with_the_service(
    run: Run, start: Start, tmp_path: Path
) -> None:

    events, where = tmp_path / "events.jsonl", tmp_path / "pid"
    program = PRELUDE + dedent(HANGS % "os.getpid()")
    with start("-W", "ignore", "-c", program, limit=90) as service:
        where.write_text(service.line() + "\n")
        status, told, noted = _watch(
            run, "--end", "--hang-after", 1, "--events", events, "--pid-file", where, limit=90
        )
        assert service.line() == str(-signal.SIGABRT)
    assert status == 0
    hangs = list(map(json.loads, events.read_text().splitlines()))
    assert [hang["event"] for hang in hangs] == ["hang"]
    assert hangs[0]["parent"] == service.pid
    child = hangs[0]["pid"]
    assert f"process {child} hangs: sent SIGABRT\n" in noted
    assert noted.endswith(f"process {child} has ended, after SIGABRT\n")


def test_one_that_does_not_end_by_the_first_signal_is_not_said_to_have(run: Run, start: Start) -> None:
    ignored = "import signal; signal.signal(signal.SIGABRT, signal.SIG_IGN)"
    program = PRELUDE + ignored + dedent(HANGS % "os.getpid()")
    with start("-W", "ignore", "-c", program, limit=90) as service:
        status, _, noted = _watch(run, "--once", "--end", "--hang-after", 1, service.line(), limit=90)
        assert service.line() == str(-signal.SIGKILL)
    assert status == 1
    said = [line.partition(" ")[2].partition(" ")[2].partition(" ")[2] for line in noted.splitlines()]
    assert said == [
        "hangs: sent SIGABRT",
        "has not ended 5 s after SIGABRT: sent SIGKILL",
        "has ended, after SIGKILL",
    ]


def test_a_service_that_hangs_itself_is_told_and_not_ended(run: Run, start: Start) -> None:
    """It is its supervisor's: what the exit status of a probe is for."""
    with looked_at(start, HANGS % "pid", still=False, limit=90) as pid:
        status, told, noted = _watch(run, "--once", "--end", "--hang-after", 1, pid)
        assert status == 1
        assert noted == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_watch_in_good_order(start: Start, number: signal.Signals) -> None:
    with looked_at(start, SLEEPS, limit=90) as pid:
        watch = subprocess.Popen(
            [sys.executable, "-m", "forkproof", "watch", str(pid)], stderr=subprocess.PIPE, text=True
        )
        with watch:
            try:
                assert watch.stderr and watch.stderr.readline() == (
                    f"forkproof: watching process {pid} and its descendants\n"
                )
                watch.send_signal(number)
                assert watch.wait(60) == 0
            finally:
                watch.kill()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "give either"),
        ((1, "--pid-file", "x"), "give either"),
        (("--pid-file", "/nowhere"), "No such file"),
        (("--pid-file", "/dev/null"), "has no process id"),
        (("--once", 2**22 + 1), "no process"),
    ],
)
def test_what_cannot_be_watched_is_one_line(run: Run, options: tuple[str | int, ...], why: str) -> None:
    status, told, noted = _watch(run, *options)
    assert (status, told, noted.count("\n")) == (2, "", 1)
    assert why in noted
