"""The C call that a thread is inside: files, databases, name look-ups, and what such a call may hold."""

# ruff: noqa: F811
from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from looking import FULL, Stage, Wanted, expect, hazards, holds, sightings, until
from looking import stage as stage  # the fixture

from forkproof import _native
from forkproof.evidence import naming


class Pipe:
    """A pipe whose ends are buffered files; what a thread writes too much of, it stops in."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe()

    def drain(self, size: int) -> None:
        while size > 0:
            size -= len(os.read(self.ours, 1 << 20))


@contextmanager
def full_pipe() -> Iterator[tuple[Pipe, io.BufferedWriter]]:
    pipe = Pipe()
    writer = os.fdopen(pipe.theirs, "wb")
    try:
        yield pipe, writer
    finally:
        os.close(pipe.ours)  # first: who still writes gets an error then
        with suppress(BrokenPipeError, ValueError):
            writer.close()


def stopped(pipe: Pipe) -> None:
    import select

    until(lambda: select.select([pipe.ours], [], [], 0)[0])


def told_of(thread: threading.Thread) -> list[str]:
    return [h.what for h in hazards(thread)]


@pytest.mark.parametrize("method", ["write", "writelines", "print", "flush"])
def test_a_thread_that_writes_to_a_full_pipe_holds_the_file(stage: Stage, method: str) -> None:
    with full_pipe() as (pipe, writer):
        text = io.TextIOWrapper(writer, encoding="ascii", write_through=method != "flush")
        many = FULL.decode()

        def body() -> None:
            if method == "write":
                text.write(many)
            elif method == "writelines":
                text.writelines([many])
            elif method == "print":
                print(many, file=text, end="")
            else:
                text.write(many)
                text.flush()

        thread = stage.start(body)
        stopped(pipe)
        expect(thread, Wanted("holds", writer, f"BufferedWriter on descriptor {writer.fileno()}"))
        pipe.drain(len(FULL))
        thread.join()
        text.detach()


def test_a_thread_that_writes_binary(stage: Stage) -> None:
    with full_pipe() as (pipe, writer):
        thread = stage.start(lambda: writer.write(FULL))
        stopped(pipe)
        expect(thread, holds(writer))
        pipe.drain(len(FULL))
        thread.join()


def test_a_writer_that_waits_for_the_file_of_another_is_not_the_one_to_name(stage: Stage) -> None:
    with full_pipe() as (pipe, writer):
        first = stage.start(lambda: writer.write(FULL))
        stopped(pipe)
        second = stage.start(lambda: writer.write(b"x"))
        until(lambda: sightings(second))
        expect(first, holds(writer))
        assert [(s[2], s[7] is writer) for s in sightings(second)] == [(1, True)]
        assert told_of(second) == []
        pipe.drain(len(FULL))
        first.join()
        second.join()


def test_standard_output_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with full_pipe() as (pipe, writer):
        text = io.TextIOWrapper(writer, write_through=True)
        monkeypatch.setattr(sys, "stdout", text)
        thread = stage.start(lambda: print(FULL.decode(), end=""))
        stopped(pipe)
        expect(thread, holds(writer, "sys.stdout (BufferedWriter)"))
        pipe.drain(len(FULL))
        thread.join()
        monkeypatch.undo()
        text.detach()


@pytest.mark.parametrize("how", ["readline", "read", "for", "next", "text readline", "text for"])
def test_a_thread_that_reads_an_empty_pipe_holds_the_file(stage: Stage, how: str) -> None:
    ours, theirs = os.pipe()
    reader = os.fdopen(ours, "rb")
    text = io.TextIOWrapper(reader) if how.startswith("text") else None
    file: Any = text or reader

    def body() -> None:
        if how.endswith("readline"):
            file.readline()
        elif how == "read":
            file.read(5)
        elif how == "next":
            next(file)
        else:
            for _ in file:
                break

    thread = stage.start(body)
    try:
        until(lambda: [s for s in sightings(thread) if s[2] == 0])
        expect(thread, holds(reader))
    finally:
        os.write(theirs, b"line\n")
        thread.join()
    os.close(theirs)
    file.close()


def test_a_file_that_is_a_global_too_is_not_the_threads_own(stage: Stage) -> None:
    """From 3.14 on the value stack may borrow from a local: the file's own count does not know of that reference."""
    with full_pipe() as (pipe, writer):
        kept = [writer]

        def body(file: Any) -> None:
            file.write(FULL)

        thread = stage.start(body, writer)
        stopped(pipe)
        # Of the many references to it that this test has, only the list's and the thread's are to count.
        expect(thread, holds(kept[0]))
        pipe.drain(len(FULL))
        thread.join()


STREAMS = """
import os, select, sys, threading, time
import forkproof
from forkproof import _native
ours, theirs = os.pipe()
def body():
    {call}
def stuck():
    return came() and [(s[2], s[3], s[7]) for s in _native.look() if s[0] == thread.ident and s[2] in (0, 3)]
def came(): return True
{prepare}
forkproof.assess()
thread = threading.Thread(target=body, daemon=True)
thread.start()
end = time.monotonic() + 20
while not stuck() and time.monotonic() < end: pass
found = {{(h.certainty, h.what) for h in forkproof.assess().hazards}}
os.write(report, repr(found).encode())
os._exit(0)
"""

# Before it writes, whoever prints a traceback has read the source; that it is past that shows by the pipe.
FULL_PIPE = "came = lambda: not select.select([], [theirs], [], 0)[1]"
FILL = FULL_PIPE + "; sys.{0} = open(theirs, 'w', buffering=1 << 16, errors='replace'); report = 1"
READ = "sys.stdin = open(ours); report = 1"
NAMED = "report = 1"


@pytest.mark.parametrize(
    ("prepare", "call", "found"),
    [
        (READ, "input()", ("certain", "sys.stdin (BufferedReader)")),
        (FILL.format("stdout"), "input('x' * 300_000)", ("certain", "sys.stdout (BufferedWriter)")),
        (FILL.format("stdout"), "print('x' * 300_000)", ("certain", "sys.stdout (BufferedWriter)")),
        (FILL.format("stdout"), "print('x' * 300_000, file=None)", ("certain", "sys.stdout (BufferedWriter)")),
        (FILL.format("stderr"), "print('x' * 300_000, file=sys.stderr)", ("certain", "sys.stderr (BufferedWriter)")),
        (
            FILL.format("stderr"),
            "sys.__excepthook__(ValueError, ValueError('x' * 300_000), None)",
            ("certain", "sys.stderr (BufferedWriter)"),
        ),
        (FILL.format("stderr"), "raise ValueError('x' * 300_000)", ("certain", "sys.stderr (BufferedWriter)")),
    ],
)  # fmt: skip
def test_a_call_that_uses_standard_streams(run: Run, prepare: str, call: str, found: tuple[str, str]) -> None:
    ended = run("-c", STREAMS.format(call=call, prepare=prepare))
    assert ended.stdout == repr({found}), ended.stderr


def test_input_at_a_terminal_holds_a_lock_of_the_interpreter(run: Run, terminal: tuple[int, int]) -> None:
    prepare = (
        f"report = os.dup(1); os.dup2(os.open({os.ttyname(terminal[1])!r}, os.O_RDWR), 0); os.dup2(0, 1)"
    )
    ended = run("-c", STREAMS.format(call="input()", prepare=prepare))
    assert ended.stdout == repr({("possible", "input")}), ended.stderr


SCANDIR = """
import itertools, os, sys, tempfile, threading
import forkproof
from forkproof import _native
folder = tempfile.TemporaryDirectory()
for i in range(2000):
    open(os.path.join(folder.name, str(i)), "w").close()
shared = [None]
def body():
    while not done:
        {make}
        {use}
done = False
forkproof.assess()
thread = threading.Thread(target=body, daemon=True)
thread.start()
found = None
for _ in range({looks}):
    for s in _native.look():
        if s[0] == thread.ident and s[3] == 5:
            found = type(s[7]).__name__, s[6]
    if found:
        break
done = True
thread.join()
folder.cleanup()
print(found)
"""


@pytest.mark.parametrize(
    "use",
    [
        "for _ in it: pass",
        "list(it)",
        "sorted(it, key=id)",
        "while next(it, None): pass",
    ],
)
def test_an_iterator_of_c_that_a_thread_is_inside(run: Run, use: str) -> None:
    """Its `__next__` is called without a call in the bytecode, or by another function of C."""
    ended = run(
        "-c", SCANDIR.format(make="it = shared[0] = os.scandir(folder.name)", use=use, looks=10_000_000)
    )
    assert ended.stdout == "('ScandirIterator', 1)\n", ended.stderr


@pytest.mark.parametrize("use", ["for _ in it: pass", "list(it)", "for _ in os.scandir(folder.name): pass"])
def test_an_iterator_that_only_the_threads_frames_refer_to_is_no_hazard(run: Run, use: str) -> None:
    ended = run("-c", SCANDIR.format(make="it = os.scandir(folder.name)", use=use, looks=20_000))
    assert ended.stdout == "None\n", ended.stderr


def test_a_reader_with_python_code_below_it(stage: Stage) -> None:
    """socket.makefile(): the raw file is a class of Python, whose readinto() lies above the file's readline()."""
    ours, theirs = socket.socketpair()
    file = ours.makefile("rb")
    thread = stage.start(lambda: file.readline())
    try:
        until(lambda: [s for s in sightings(thread) if s[2] == 0])
        assert [s[7] is file for s in sightings(thread)] == [True]
        assert len(told_of(thread)) == 1
    finally:
        theirs.sendall(b"one\n")
        thread.join()
    file.close()
    ours.close()
    theirs.close()


def test_a_file_that_only_the_threads_frames_refer_to_is_no_hazard(stage: Stage) -> None:
    ours, theirs = os.pipe()

    def body() -> None:
        with os.fdopen(theirs, "wb", closefd=True) as writer:
            writer.write(FULL)

    pipe = Pipe.__new__(Pipe)
    pipe.ours, pipe.theirs = ours, theirs
    thread = stage.start(body)
    stopped(pipe)
    expect(thread)
    pipe.drain(len(FULL))
    thread.join()
    os.close(ours)


def test_looks_leave_nothing_in_the_interpreters_caches(stage: Stage) -> None:
    """It keeps each string by which something was looked up in a type, and forgets another one for that."""
    gate, (ours, theirs) = stage.gate(), socket.socketpair()

    def body() -> None:
        receive = ours.recv
        receive(1)

    receiving, writing = stage.start(body), stage.at(gate, gate.wait)

    def blocks_after(looks: int) -> int:
        for _ in range(looks):
            _native.look()
        return sys.getallocatedblocks()

    before = blocks_after(10)
    assert blocks_after(400) < before + 100
    gate.open()
    theirs.send(b".")
    for thread in (receiving, writing):
        thread.join()
    ours.close()
    theirs.close()


def test_a_thread_inside_sqlite(stage: Stage) -> None:
    gate = stage.gate()
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("stop", 0, gate.wait)

    def body() -> None:
        connection.execute("select stop()").fetchall()

    thread = stage.at(gate, body)
    seen = [(naming.STATES[s[2]], bool(s[4]), bool(s[6])) for s in sightings(thread)]
    assert seen == [("inside", False, False)], "Python code lies above the call: it is not about to end"
    assert told_of(thread) == ["SQLite"]
    gate.open()
    thread.join()
    connection.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_with_that_leaves_a_database_connection(stage: Stage, fails: bool) -> None:
    """It commits or rolls back there, in C."""
    gate = stage.gate()
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("create table t(x)")

    def stop(statement: str) -> None:
        if statement == ("ROLLBACK" if fails else "COMMIT"):
            gate.wait()

    def body() -> None:
        with suppress(KeyError), connection:
            connection.execute("insert into t values (1)")
            if fails:
                raise KeyError

    connection.set_trace_callback(stop)
    thread = stage.at(gate, body)
    assert told_of(thread) == ["SQLite"]
    gate.open()
    thread.join()
    connection.close()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_with_that_leaves_a_file_whose_buffer_is_full(stage: Stage, mode: str, fails: bool) -> None:
    ours, theirs = os.pipe()
    file = open(theirs, mode, buffering=400_000)  # noqa: SIM115

    def body() -> None:
        with suppress(KeyError), file:
            file.write("x" * 300_000 if mode == "w" else b"x" * 300_000)
            if fails:
                raise KeyError

    thread = stage.start(body)
    until(lambda: told_of(thread) == [f"BufferedWriter on descriptor {theirs}"])
    while os.read(ours, 100_000):
        pass
    thread.join()
    os.close(ours)


class _Counting(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        return super().execute(*arguments)


def test_a_method_that_a_subclass_calls_by_super(stage: Stage) -> None:
    gate = stage.gate()
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("stop", 0, gate.wait)
    thread = stage.at(gate, connection.cursor(_Counting).execute, "select stop()")
    assert told_of(thread) == ["SQLite"]
    gate.open()
    thread.join()
    connection.close()


def caught(body: Callable[[], object], kind: int) -> Any:
    """A sighting of a thread that does `body` again and again, and the thread."""
    stop = False

    def again() -> None:
        while not stop:
            body()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        return until(lambda: [s for s in _native.look() if s[0] == thread.ident and s[3] == kind])[0]
    finally:
        stop = True
        thread.join()


def test_a_compressor_at_work_is_named_by_the_object() -> None:
    compressor = zlib.compressobj(9)
    data = os.urandom(1 << 20) * 2
    seen = caught(lambda: compressor.compress(data), naming.CALL)
    assert seen[7] is compressor
    assert seen[2] == naming.INSIDE


def test_a_hash_object_at_work_is_named_by_the_object() -> None:
    digest = hashlib.sha256()
    data = b"x" * (1 << 22)
    seen = caught(lambda: digest.update(data), naming.CALL)
    assert seen[7] is digest
    assert seen[2] == naming.INSIDE


def test_calls_that_hold_nothing_are_not_reported(stage: Stage) -> None:
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    seen = threading.Event()

    def sleeps() -> None:
        while not seen.is_set():
            time.sleep(0.5)

    threads = [
        stage.start(sleeps),
        stage.start(lambda: ours.recv(1)),
        stage.start(lambda: listener.accept()),
        stage.start(lambda: os.read(ours.fileno(), 1)),
        stage.start(lambda: __import__("select").select([ours], [], [], 300)),
    ]
    for thread in threads:
        for _ in range(5):
            expect(thread)
    seen.set()
    theirs.sendall(b"xxx")  # one for each that reads, one for select()
    socket.create_connection(listener.getsockname()).close()
    for thread in threads:
        thread.join()
    for end in (ours, theirs, listener):
        end.close()


def test_what_is_sent_and_the_path_of_a_unix_socket_are_no_host_names(stage: Stage, tmp_path: Path) -> None:
    full, listener, receiver = (
        socket.socket(socket.AF_UNIX, kind)
        for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)
    )
    listener.bind(str(tmp_path / "listener"))
    listener.listen(0)
    full.connect(listener.getsockname())
    receiver.bind(str(tmp_path / "receiver"))
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sender.sendto(b"jobs:1|c", receiver.getsockname())
    sender.setblocking(True)
    late = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    threads = [
        stage.start(lambda: late.connect(listener.getsockname())),
        stage.start(lambda: sender.sendto(b"jobs:1|c", receiver.getsockname())),
        stage.start(lambda: sender.sendmsg([b"jobs:1|c"], [], 0, receiver.getsockname())),
    ]
    for _ in range(5):
        for thread in threads:
            expect(thread)
        time.sleep(0.02)
    listener.accept()[0].close()
    listener.accept()[0].close()
    receiver.settimeout(0.1)  # a thread that has sent all may still be about to end
    while any(thread.is_alive() for thread in threads):
        with suppress(TimeoutError):
            receiver.recv(100)
    for end in (full, listener, receiver, sender, late):
        end.close()


SHIM = r"""
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const void *hints, void **result)
{
    for (;;) pause();
}
"""

LOOKUP = """
import encodings.idna, os, socket, sys, threading, time
import forkproof
from forkproof import _native
UDP = socket.socket(type=socket.SOCK_DGRAM)
def body():
    {call}
thread = threading.Thread(target=body, daemon=True)
thread.start()
end = time.monotonic() + 20
while time.monotonic() < end:
    told = [h for h in forkproof.assess().hazards if h.state == "inside"]
    if told:
        break
for h in told:
    print(h.kind, h.certainty, h.what, h.stack[0].function, sep="|")
print(len([s for s in _native.look()]))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c"], check=True)
    return library


SOURCE = str(Path(_native.__file__).parent.parent)


@pytest.mark.parametrize(
    ("call", "what", "function"),
    [
        ("socket.getaddrinfo('localhost', 80)", "getaddrinfo", "getaddrinfo"),
        ("socket.create_connection(('localhost', 80))", "getaddrinfo", "getaddrinfo"),
        ("socket.gethostbyname('localhost')", "host name look-up", "body"),
        ("socket.socket().connect(('localhost', 80))", "look-up of a host name by a socket call", "body"),
        ("socket.socket().bind(('localhost', 0))", "look-up of a host name by a socket call", "body"),
        ("socket.getaddrinfo('db', 80)", "getaddrinfo", "getaddrinfo"),
        ("socket.socket().connect(*(('localhost', 80),))", "look-up of a host name by a socket call", "body"),
        ("UDP.sendto(b'x', ('localhost', 9))", "look-up of a host name by a socket call", "body"),
        ("UDP.sendto(b'x', 0, ('localhost', 9))", "look-up of a host name by a socket call", "body"),
        ("UDP.sendmsg([b'x'], [], 0, ('localhost', 9))", "look-up of a host name by a socket call", "body"),
        ("look = socket.getaddrinfo; look(*('localhost', 80))", "getaddrinfo", "getaddrinfo"),
    ],
)
def test_a_thread_that_looks_a_name_up(shim: Path, run: Run, call: str, what: str, function: str) -> None:
    ended = run(
        "-c",
        LOOKUP.format(call=call),
        env={"LD_PRELOAD": str(shim), "PYTHONPATH": SOURCE},
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [f"native-call|possible|{what}|{function}", "1"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="warnings has no lock of its own before 3.14")
def test_the_lock_of_warnings_names_its_owner_where_no_call_is_going_on(stage: Stage) -> None:
    """As catch_warnings() has it: taken by a call that has returned."""
    inside, outside = stage.gate(), stage.gate()

    def body() -> None:
        with vars(warnings)["_lock"]:
            inside.wait()
        outside.wait()

    thread = stage.at(inside, body)
    assert [(h.kind, h.what, h.certainty) for h in hazards(thread)] == [
        ("native-call", "warnings", "certain")
    ]
    inside.open()
    outside.reached(thread)
    assert not hazards(thread)
