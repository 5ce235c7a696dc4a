"""`forkproof run --emulate getaddrinfo-lock`: the lock of another platform, its roads, its owner, and its absence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import Run

from forkproof.lab.emulate import parse

FORKPROOF = ("-m", "forkproof", "run")
OBSERVE = (*FORKPROOF, "--policy", "observe")

LOOKS_UP_AT_THE_FORK = """
import encodings.idna, os, socket, sys, threading, time
thread = threading.Thread(target=socket.getaddrinfo, args=("127.0.0.1", 80))
thread.start()
time.sleep(0.1)  # the look-up itself is over: it is only the lock that is held
pid = os.fork()
if pid:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
socket.getaddrinfo("127.0.0.1", 80)
"""


def forks(path: Path) -> list[dict[str, object]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in events if event["event"] == "fork"]


def test_without_the_lock_the_program_is_safe(run: Run) -> None:
    assert run(*OBSERVE, "-c", LOOKS_UP_AT_THE_FORK).status == 0


def test_with_the_lock_the_child_hangs_and_the_record_names_the_look_up(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events"
    options = ("--emulate", "getaddrinfo-lock:3000", "--events", str(events))
    assert run(*OBSERVE, *options, "-c", LOOKS_UP_AT_THE_FORK, hangs=True, limit=8).timed_out
    (fork,) = forks(events)
    assert [hazard["what"] for hazard in fork["hazards"]] == ["getaddrinfo"]  # type: ignore[attr-defined]
    assert fork["risk"] == "possible"


def test_the_policy_wait_waits_for_the_lock(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events"
    options = ("--wait", "20", "--emulate", "getaddrinfo-lock:2000", "--events", str(events))
    assert run(*FORKPROOF, *options, "-c", LOOKS_UP_AT_THE_FORK).status == 0
    (fork,) = forks(events)
    assert (fork["risk"], fork["outcome"]) == ("none", "waited")
    assert fork["waited_ms"] > 100  # type: ignore[operator]


ROADS = {
    "socket.getaddrinfo('localhost', 80)": 1,
    "socket.getaddrinfo(host='localhost', port=80, flags=0)": 1,
    "socket.getaddrinfo('127.0.0.1', 80)": 1,  # CPython's lock was around numeric ones too
    "socket.gethostbyname('localhost')": 1,
    "socket.gethostbyname('')": 1,
    "socket.gethostbyname('127.0.0.1')": 0,
    "socket.gethostbyname('<broadcast>')": 0,
    "socket.gethostbyname_ex('localhost')": 1,
    "socket.gethostbyname_ex('127.0.0.1')": 1,  # around the C library's own, which is asked for numeric ones too
    "socket.gethostbyaddr('127.0.0.1')": 1,
    "socket.getnameinfo(('127.0.0.1', 80), 0)": 1,
    "tcp.connect_ex(('localhost', 1))": 1,
    "tcp.connect_ex((b'localhost', 1))": 1,
    "tcp.bind(('localhost', 0))": 1,
    "tcp.connect(('localhost', listening.getsockname()[1]))": 1,
    "udp.sendto(b'x', ('localhost', 9))": 1,
    "udp.sendto(b'x', 0, ('localhost', 9))": 1,
    "udp.sendmsg([b'x'], [], 0, ('localhost', 9))": 1,
    "socket.create_connection(('localhost', listening.getsockname()[1]))": 1,  # connects to what it looked up
    "tcp.connect_ex(('127.0.0.1', 1))": 0,
    "tcp.bind(('', 0))": 1,  # which address is any address of this machine is looked up as well
    "tcp6.bind(('', 0))": 1,
    "udp.sendto(b'x', (b'', 9))": 1,
    "tcp6.connect_ex(('::1', 1))": 0,
    "udp.sendto(b'x', ('127.0.0.1', 9))": 0,
    "udp.sendto(b'x', ('<broadcast>', 9))": 0,
    "unix.connect_ex('/nowhere')": 0,
}


def test_every_road_to_a_look_up_takes_the_lock(run: Run) -> None:
    program = """
import socket, sys
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
for call in sys.argv[1:]:
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp6, unix = socket.socket(socket.AF_INET6), socket.socket(socket.AF_UNIX)
    print("road:", call, file=sys.stderr, flush=True)
    try:
        exec(call)
    except PermissionError:
        pass  # to broadcast
"""
    ended = run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "--trace-lookups", "-c", program, *ROADS)
    assert ended.status == 0, ended.stderr
    taken = {
        call: [line.rpartition(": ")[2] for line in lines]
        for call, *lines in map(str.splitlines, ended.stderr.split("road: ")[1:])
    }
    assert taken == {call: ["getting lock", "got lock", "released"] * times for call, times in ROADS.items()}


def test_a_trace_line_says_when_and_who(run: Run) -> None:
    code = "import os, socket; socket.gethostbyname('localhost'); print(os.getpid())"
    ended = run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "--trace-lookups", "-c", code)
    pid = ended.stdout.strip()
    for line in ended.stderr.splitlines():
        assert re.fullmatch(
            rf"forkproof: \d\d:\d\d:\d\d\.\d{{6}} pid {pid}, thread {pid} \(MainThread\): (getting lock|got lock|released)",
            line,
        )


def test_look_ups_are_traced_without_the_lock_too(run: Run) -> None:
    ended = run(*FORKPROOF, "--trace-lookups", "-c", "import socket; socket.gethostbyname('localhost')")
    assert [line.rpartition(": ")[2] for line in ended.stderr.splitlines()] == ["looking up", "looked up"]


CONNECTS_ELSEWHERE = """
import socket, threading, time
blocked = socket.socket()
blocked.bind(("127.0.0.1", 0))
blocked.listen(0)
port = blocked.getsockname()[1]
fill = [socket.socket() for _ in range(4)]
for each in fill:
    each.setblocking(False)
    each.connect_ex(("127.0.0.1", port))
waits = socket.socket()
waits.settimeout(8)
def connect():
    try:
        waits.connect(("localhost", port))
    except TimeoutError:
        print("connected to nobody")
thread = threading.Thread(target=connect)
thread.start()
time.sleep(0.5)
assert thread.is_alive()
start = time.monotonic()
socket.gethostbyname("localhost")
assert time.monotonic() - start < 4, "the lock was held while it connected"
thread.join()
"""


def test_the_lock_is_not_held_while_a_socket_connects(run: Run) -> None:
    ended = run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "-c", CONNECTS_ELSEWHERE)
    assert (ended.status, ended.stdout) == (0, "connected to nobody\n")


SAME = """
import socket
def attempt(function, *args, **keywords):
    try:
        return function(*args, **keywords)
    except Exception as error:
        return type(error).__name__, str(error)
tcp = socket.socket()
print(attempt(socket.getaddrinfo, "localhost", 80, type=socket.SOCK_STREAM))
print(attempt(socket.getaddrinfo, "localhost", "no such service"))
print(attempt(socket.getaddrinfo))
print(attempt(socket.getaddrinfo, "." * 70, 80))
print(attempt(socket.gethostbyname, "x.invalid"), attempt(socket.gethostbyname, 3))
print(attempt(tcp.connect, ("x.invalid", 80)), attempt(tcp.connect, "nonsense"), attempt(tcp.connect))
print(attempt(tcp.connect, ("localhost", "http")), attempt(tcp.bind, ("localhost", 0, 3)))
print(attempt(tcp.bind, ("", 0)), attempt(tcp.getsockname)[0], attempt(socket.gethostbyname, ""))
for family in socket.AF_INET, socket.AF_INET6:
    other = socket.socket(family)
    print(attempt(other.bind, (b"", 0)), other.getsockname()[0], attempt(other.connect, ("::1", 1)), attempt(other.connect, ("127.0.0.1", 1)))
print(attempt(tcp.sendto, b"x"), attempt(tcp.sendmsg), attempt(socket.getnameinfo, ("localhost", 80), 0)[0] != "")
"""


def test_results_and_errors_are_those_without_it(run: Run) -> None:
    plain = run("-c", SAME)
    emulated = run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "-c", SAME)
    assert plain.status == 0
    assert (emulated.stdout, emulated.stderr) == (plain.stdout, "")


@pytest.mark.parametrize(
    "start",
    [
        "pid = os.fork()\nif pid == 0: look()\nos.waitpid(pid, 0)",
        "subprocess.run([sys.executable, '-c', f'import socket; {LOOK}'], check=True)",
        "multiprocessing.get_context('spawn').Process(target=look).start()",
    ],
)
def test_children_behave_so_too(run: Run, tmp_path: Path, start: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, socket, subprocess, sys\n"
        "LOOK = \"socket.gethostbyname('localhost')\"\n"
        "def look(): exec(LOOK); os._exit(0)\n"
        "if __name__ == '__main__':\n    " + start.replace("\n", "\n    ") + "\n"
    )
    ended = run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "--trace-lookups", program)
    assert ended.status == 0, ended.stderr
    assert [line.rpartition(": ")[2] for line in ended.stderr.splitlines()] == [
        "getting lock",
        "got lock",
        "released",
    ]


OWNER = """
import ctypes, socket, threading, time
from forkproof.lab import _emulate
words = (ctypes.c_uint32 * 4).from_address(_emulate.address())
before = list(words)
thread = threading.Thread(target=socket.gethostbyname, args=("localhost",))
thread.start()
while not words[0]:
    time.sleep(0.001)
print(words[2] == thread.native_id)
thread.join()
print(list(words) == before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the mutex of glibc")
def test_the_lock_names_its_owner(run: Run) -> None:
    """As a debugger reads it: glibc keeps a mutex's owner in its third word."""
    ended = run(*FORKPROOF, "--emulate", "getaddrinfo-lock:300", "-c", OWNER)
    assert ended.stdout == "True\nTrue\n", ended.stderr


def test_off_it_is_not_even_loaded(run: Run) -> None:
    code = "import sys; print([name for name in sys.modules if 'forkproof.lab' in name or name == '_socket'])"
    ended = run(*FORKPROOF, "-c", code)
    assert (ended.status, ended.stdout) == (0, "[]\n")


def test_no_module_is_imported_for_it_but_the_socket_module_in_c(run: Run) -> None:
    """What the program imports in a thread must not have been imported for it."""
    code = "import sys; print(sorted(sys.modules))"
    plain = set(eval(run(*FORKPROOF, "-c", code).stdout))
    emulated = set(eval(run(*FORKPROOF, "--emulate", "getaddrinfo-lock", "-c", code).stdout))
    assert emulated - plain == {"_socket", "forkproof.lab", "forkproof.lab._emulate", "forkproof.lab.emulate"}


@pytest.mark.parametrize(
    ("text", "means"),
    [("getaddrinfo-lock", ("getaddrinfo-lock", 0.0)), ("getaddrinfo-lock:250", ("getaddrinfo-lock", 0.25))],
)
def test_names_and_delays(text: str, means: tuple[str, float]) -> None:
    assert parse(text) == means


@pytest.mark.parametrize(
    "text", ["", "macos", "getaddrinfo-lock:", "getaddrinfo-lock:x", "getaddrinfo-lock:-1"]
)
def test_what_is_none_is_one_line(run: Run, text: str) -> None:
    ended = run(*FORKPROOF, "--emulate", text, "-c", "print('ran')")
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("forkproof: ")
    assert ended.stderr.count("\n") == 1
