"""The lines of forks of which there is nothing to tell but that they were: written by the extension, as Python would have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run

FORKS = """
import os, sys, threading
import forkproof
from forkproof import _events, _native

written = []
write = _events.Writer.write
def by_python(self, event):
    written.append(event["event"])
    write(self, event)
_events.Writer.write = by_python

threading.Thread(target=threading.Event().wait, daemon=True).start()
forkproof.install(events=sys.argv[1], policy="%s")

def fork():
    pid = os.fork()
    if not pid:
        os.write(1, f"{len(written)}\\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)
"""

BOTH = """
for by_extension in (True, False):
    if not by_extension:
        _native.set_lines(None)
    fork()
    print(by_extension, written, flush=True)
"""

HALF = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fork()
was = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]) + 50, was[1]))
fork()
resource.setrlimit(resource.RLIMIT_FSIZE, was)
fork()
"""

REPLACED = """
os.rename(sys.argv[1], sys.argv[1] + ".1")
number = next(int(n) for n in os.listdir("/proc/self/fd") if os.path.realpath("/proc/self/fd/" + n) == sys.argv[1] + ".1")
os.dup2(os.open(sys.argv[1] + ".other", os.O_WRONLY | os.O_CREAT), number)
fork()
"""


def _masked(text: str) -> list[str]:
    """What differs between two forks, put out of sight."""
    text = re.sub(r'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', '"time":"T"', text)
    return sorted(re.sub(r'"(pid|parent|fork)":\d+', r'"\1":0', text).splitlines())


@pytest.mark.parametrize("policy", ["wait", "observe"])
def test_a_line_is_as_python_would_have_written_it(run: Run, tmp_path: Path, policy: str) -> None:
    events = tmp_path / "events.jsonl"
    ended = run("-W", "ignore", "-c", FORKS % policy + BOTH, str(events))
    assert ended.status == 0, ended.stderr
    # Python has written none of the first fork's, and both of the second's (of which the parent sees its own).
    assert ended.stdout.splitlines() == ["0", "True []", "1", "False ['fork']"]
    born, other_born, fork, other_fork = _masked(events.read_text())
    assert (born, fork) == (other_born, other_fork)
    event = json.loads(fork)
    assert (event["event"], event["outcome"], event["where"]["function"]) == ("fork", "clear", "fork")


def test_names_that_are_not_plain_are_left_to_python(run: Run, tmp_path: Path) -> None:
    events, script = tmp_path / "events.jsonl", tmp_path / 'grüße "x".py'
    script.write_text(FORKS % "wait" + "fork()\n")
    assert run("-W", "ignore", str(script), str(events)).status == 0
    fork = next(
        event for event in map(json.loads, events.read_text("utf-8").splitlines()) if "where" in event
    )
    assert (fork["where"]["file"], fork["program"]) == (str(script), script.name)


def test_after_half_a_line_the_next_one_is_whole(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    ended = run("-W", "ignore", "-c", FORKS % "wait" + HALF, str(events))
    assert ended.status == 0, ended.stderr
    whole = []
    for line in events.read_text().splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            continue
    assert [event["fork"] for event in whole if event["event"] == "fork"] == [1, 3]


def test_a_descriptor_that_has_become_another_file_is_not_written_to(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    ended = run("-W", "ignore", "-c", FORKS % "wait" + REPLACED, str(events))
    assert ended.status == 0, ended.stderr
    assert (tmp_path / "events.jsonl.other").read_text() == ""
    assert {json.loads(line)["event"] for line in events.read_text().splitlines()} == {"fork", "born"}


FULL = """
import json, os, sys, threading, time
import forkproof
from forkproof import guard

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

def writes(thread):
    "To the events: it stands in a system call, whose first argument that descriptor is."
    words = open(f"/proc/self/task/{thread.native_id}/syscall").read().split()
    number = int(words[1], 16) if len(words) > 2 else -1
    return os.path.realpath(f"/proc/self/fd/{number}") == sys.argv[1]

def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)

def drain():
    while chunk := os.read(end, 65536):
        got.append(chunk)

def hold():
    with lock:
        held.set()
        over.wait()

os.mkfifo(sys.argv[1])
end, got, lock, held, over = os.open(sys.argv[1], os.O_RDWR), [], threading.Lock(), threading.Event(), threading.Event()
forkproof.install(events=sys.argv[1], policy="wait", wait=20, warn=False)
os.set_blocking(end, False)
try:
    while True: os.write(end, b"\\n")
except BlockingIOError:
    os.set_blocking(end, True)
one, two, holder = (threading.Thread(target=target) for target in (fork, fork, hold))
one.start()
until(lambda: writes(one))
holder.start()
held.wait()
two.start()
until(lambda: guard.forks() == 2)
time.sleep(0.2)  # it waits for the lock
threading.Thread(target=drain, daemon=True).start()
until(lambda: not one.is_alive())
over.set()
two.join()
until(lambda: got[-1:] and b"".join(got).count(b'"event":"fork"') == 2)
for line in b"".join(got).splitlines():
    if b'"fork":2' in line and b'"event":"fork"' in line:
        event = json.loads(line)
        print(event["outcome"], [(hazard["kind"], hazard["cleared"]) for hazard in event["hazards"]], flush=True)
os._exit(0)
"""


def test_a_fork_whose_line_is_being_written_takes_nothing_from_the_next(run: Run, tmp_path: Path) -> None:
    """The GIL is another's while a line is written, and the next fork may be looking."""
    ended = run("-W", "ignore", "-c", FULL, str(tmp_path / "events"))
    assert ended.stdout == "waited [('held-lock', True)]\n", ended.stderr
