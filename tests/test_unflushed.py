"""Output that is written twice is told where two processes have written it, and nothing is said where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from conftest import Run

from forkproof import model

Told = Callable[..., list[dict[str, Any]]]

PRELUDE = """
import os, subprocess, sys, threading
import multiprocessing
FILE = sys.argv[1]

def forked(body):
    pid = os.fork()
    if pid == 0:
        body()
        sys.exit()
    return pid

def ended(pid):
    os.waitpid(pid, 0)

"""


@pytest.fixture
def told(run: Run, tmp_path: Path) -> Told:
    """The events of that sort of a program under `forkproof run`; `FILE` is a file for it to write, `lines` what is in it then."""

    def told(
        source: str, *, lines: list[str] | None = None, stdout: str | None = None
    ) -> list[dict[str, Any]]:
        program, file, events = tmp_path / "app.py", tmp_path / "out.txt", tmp_path / "events"
        program.write_text(PRELUDE + dedent(source))
        ended = run("-m", "forkproof", "run", "--events", events, program, file)
        assert ended.status == 0, ended.stderr
        assert lines is None or file.read_text().split() == lines
        assert stdout is None or ended.stdout.split() == stdout.split()
        text = events.read_text()
        assert "secret" not in text
        found = [json.loads(line) for line in text.splitlines()]
        assert all(model.event_from_json(event) is not None for event in found)
        return [event for event in found if event["event"] == "doubled-output"]

    return told


def test_text_for_stdout_that_both_flush_at_their_end(told: Told) -> None:
    (event,) = told("print('secret')\nended(forked(lambda: None))", stdout="secret secret")
    assert (event["file"], event["fd"], event["bytes"], event["writers"]) == ("<stdout>", 1, 7, 2)
    assert (event["verdict"], event["fork"], event["where"]["function"]) == ("proven", 1, "forked")
    assert "sys.stdout.flush()" in event["advice"]


def test_a_file_that_both_leave_by_the_end_of_its_with(told: Told, tmp_path: Path) -> None:
    source = """
        with open(FILE, "w") as f:
            f.write("secret\\n")
            ended(forked(lambda: None))
    """
    (event,) = told(source, lines=["secret"] * 2)
    assert (event["file"], event["bytes"], event["verdict"]) == (str(tmp_path / "out.txt"), 7, "proven")


@pytest.mark.parametrize("mode", ["'wb'", "'w+b'"])
def test_bytes_in_a_buffered_file(told: Told, mode: str) -> None:
    source = f"""
        out = open(FILE, {mode})
        out.write(b"secret\\n")
        ended(forked(out.flush))
        out.close()
    """
    (event,) = told(source, lines=["secret"] * 2)
    assert (event["bytes"], event["verdict"]) == (7, "proven")


@pytest.mark.parametrize(
    ("mode", "data", "verdict"), [("w", "secret", "proven"), ("wb", b"secret", "likely")]
)
def test_a_file_that_is_gone_before_the_end(told: Told, mode: str, data: str | bytes, verdict: str) -> None:
    source = f"""
        def main():
            out = open(FILE, {mode!r})
            out.write({data!r})
            ended(forked(lambda: None))
        main()
    """
    (event,) = told(source, lines=["secret" * 2])
    assert event["verdict"] == verdict


def test_a_child_that_flushes_and_ends_by_os_exit(told: Told) -> None:
    def_ = """
        def child():
            print("child", flush=True)
            os._exit(0)
        print("secret")
        ended(forked(child))
    """
    (event,) = told(def_, stdout="secret child secret")
    assert event["verdict"] == "proven"


def test_two_children_of_a_parent_that_writes_nothing(told: Told) -> None:
    source = """
        out = open(FILE, "w")
        out.write("secret\\n")
        if os.fork() == 0:
            ended(forked(out.flush))
            ended(forked(out.flush))
            os._exit(0)
        os.wait()
        os._exit(0)
    """
    (event,) = told(source, lines=["secret"] * 2)
    assert (event["writers"], event["verdict"]) == (2, "proven")


def test_a_file_left_to_the_end_of_both_is_likely(told: Told) -> None:
    (event,) = told(
        "out = open(FILE, 'w')\nout.write('secret')\nended(forked(lambda: None))", lines=["secret" * 2]
    )
    assert event["verdict"] == "likely"


def test_an_attribute_of_self(told: Told) -> None:
    source = """
        class Log:
            def __init__(self):
                self.out = open(FILE, "w")
            def run(self):
                self.out.write("secret\\n")
                ended(forked(self.out.flush))
                self.out.close()
        Log().run()
    """
    (event,) = told(source, lines=["secret"] * 2)
    assert event["verdict"] == "proven"


LOG = """
import logging, logging.handlers
log, target = logging.getLogger(), logging.FileHandler(FILE)
memory = logging.handlers.MemoryHandler(9, target=target)
log.addHandler(memory)
log.warning("secret")
"""


@pytest.mark.parametrize(
    "source",
    [
        "ended(forked(lambda: None))",
        "ended(forked(memory.flush))",
        "ended(forked(lambda: None)); memory.flush(); ended(forked(lambda: None))",
        "ended(forked(lambda: (log.warning('secret'), memory.flush(), os._exit(0)))); os.truncate(FILE, 7)",
    ],
)
def test_records_of_a_memoryhandler_that_both_hand_to_its_target(told: Told, source: str) -> None:
    (event,) = told(LOG + source, lines=["secret"] * 2)
    assert (event["file"], event["bytes"], event["records"]) == (None, None, 1)
    assert (event["verdict"], event["writers"], event["where"]["function"]) == ("proven", 2, "forked")
    assert "flush the MemoryHandler before the fork" in event["advice"]


@pytest.mark.parametrize(
    "source",
    [
        "memory.flush(); ended(forked(lambda: None))",
        "ended(forked(lambda: os._exit(0)))",
        "ended(forked(memory.buffer.clear))",
        "os.register_at_fork(after_in_child=memory.buffer.clear); ended(forked(lambda: log.info('secret')))",
        "ended(forked(lambda: (memory.flush(), os._exit(0)))); memory.setTarget(None)",
        "p = multiprocessing.get_context('fork').Process(target=int); p.start(); p.join()",
    ],
)
def test_records_of_a_memoryhandler_that_one_hands_to_its_target(told: Told, source: str) -> None:
    assert told(LOG + source, lines=["secret"]) == []


def test_of_many_forks_each_file_once_and_what_was_flushed_between_is_not_confused(told: Told) -> None:
    source = """
        with open(FILE, "w") as out:
            for _ in range(3):
                out.write("secret\\n")
                ended(forked(lambda: os._exit(0)))
                out.flush()
            out.write("secret\\n")
            ended(forked(out.flush))
            ended(forked(out.flush))
    """
    (event,) = told(source, lines=["secret"] * 6)
    assert (event["fork"], event["bytes"]) == (4, 7)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        pytest.param("out = open(FILE, 'w'); out.write('a'); ended(forked(lambda: os._exit(0)))", ["a"], id="os-exit"),
        pytest.param("out = open(FILE, 'w'); out.write('a'); out.flush(); ended(forked(out.flush))", ["a"], id="flushed"),
        pytest.param("out = open(FILE, 'w'); ended(forked(lambda: None)); out.write('a')", ["a"], id="empty"),
        pytest.param("out = open(FILE, 'w', buffering=1); out.write('a\\n'); ended(forked(out.flush))", ["a"], id="line"),
        pytest.param(
            "out = open(FILE, 'w'); out.write('a'); ended(forked(lambda: os.kill(os.getpid(), 9)))", ["a"], id="killed"
        ),
        pytest.param(
            "out = open(FILE, 'w'); out.write('a'); ended(forked(lambda: os.execv('/bin/true', ['true'])))",
            ["a"],
            id="exec",
        ),
        pytest.param(
            "out = open(FILE, 'w'); out.write('a'); subprocess.run(['true'], preexec_fn=lambda: None)", ["a"], id="subprocess"
        ),
        pytest.param(
            "out = open(FILE, 'w'); out.write('a'); print('x')\n"
            "p = multiprocessing.get_context('fork').Process(target=print, args=('y',)); p.start(); p.join()",
            ["a"],
            id="multiprocessing",
        ),
        pytest.param(
            "out = open(FILE, 'w'); out.write('a')\nif os.fork(): os._exit(0)\nout.flush()", None, id="left-to-the-child"
        ),
        pytest.param(
            "print('a')\n"
            "def child(): os.dup2(os.open('/dev/null', os.O_WRONLY), 1)\n"
            "ended(forked(child))",
            None,
            id="daemon",
        ),
        pytest.param("out = open('/dev/null', 'w'); out.write('a'); ended(forked(out.flush))", None, id="null"),
    ],
)  # fmt: skip
def test_nothing_is_said_of_what_is_written_once(told: Told, source: str, lines: list[str] | None) -> None:
    assert told(source, lines=lines) == []


def test_in_a_program_it_is_told_on_stderr_if_asked_for(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    install = "import forkproof; forkproof.install(connections=True)\n"
    program.write_text(install + PRELUDE + "print('secret')\nended(forked(lambda: None))\n")
    ended = run(program, "-")
    assert (ended.status, ended.stdout) == (0, "secret\nsecret\n")
    assert "7 bytes were in the buffer of <stdout>" in ended.stderr and "[proven]" in ended.stderr
    program.write_text(program.read_text().replace("connections=True", ""))
    assert run(program, "-").stderr == ""


def test_the_report_shows_it_once_and_counts(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        PRELUDE
        + "for _ in range(3):\n    print('secret')\n    ended(forked(lambda: None))\n    sys.stdout.flush()\n"
    )
    ended = run("-m", "forkproof", "run", program, "-")
    assert ended.stdout.split() == ["secret"] * 6
    said = " ".join(ended.stderr.split())  # lines end where the terminal does
    assert said.count("7 bytes in the buffer of stdout: written twice") == 1
    assert "3 outputs written twice" in said
