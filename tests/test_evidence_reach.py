"""A lock that only the vanishing threads can come by is nobody's hazard; the same lock in any other hands is one."""

# ruff: noqa: F811
from __future__ import annotations

import contextvars
import fcntl
import functools
import gzip
import io
import os
import socket
import sys
import termios
import threading
import weakref
import zlib
import zoneinfo
from contextlib import suppress
from typing import IO, Any

import pytest
from conftest import Run
from looking import Stage, hazards, until
from looking import stage as stage  # the fixture

import forkproof


class Client:
    """As HTTP and SMTP clients are made: it waits for the peer's first words in `__init__`."""

    def __init__(self, peer: socket.socket, then: Any = None, *, keep: Any = None) -> None:
        self.file = peer.makefile("rb")
        if keep is not None:
            keep.append(self)
        if then is not None:
            then(self)
        self.greet()

    def greet(self) -> None:
        self.file.readline()


class Waiting:
    """Threads that wait for a line from a socket, and one end of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ends: list[socket.socket] = []

    def thread(self, body: Any) -> threading.Thread:
        near, far = socket.socketpair()
        self.ends += [near, far]
        started = self.stage.start(body, near)
        until(lambda: _stands_in(started.ident, "readinto"))
        return started


def _stands_in(ident: int | None, function: str) -> bool:
    frame = sys._current_frames().get(ident or 0)
    return frame is not None and frame.f_code.co_name == function


@pytest.fixture
def waiting(stage: Stage) -> Any:
    made = Waiting(stage)
    yield made
    for end in made.ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.mark.parametrize(
    "body",
    [
        lambda peer: Client(peer),
        lambda peer: Client(peer, keep=None),
        lambda peer: Client(*[peer]),
        lambda peer: peer.makefile("rb").readline(),
        lambda peer: peer.makefile("r").readlines(),
        lambda peer: list(peer.makefile("r")),
        lambda peer: gzip.GzipFile(fileobj=peer.makefile("rb")).read(),
    ],
    ids=["constructor", "keywords", "arguments", "temporary", "lines", "list", "gzip"],
)
def test_a_file_that_only_its_thread_knows(waiting: Waiting, body: Any) -> None:
    assert hazards(waiting.thread(body)) == []


kept: list[Any] = []
alive: Any = weakref.WeakSet()


def _keep(thing: Any) -> Any:
    kept.append(thing)
    return thing


def _keep_file(client: Client) -> None:
    kept.append(client.file)


@pytest.mark.parametrize(
    "body",
    [
        lambda peer: Client(peer, keep=kept),
        lambda peer: Client(peer, _keep_file),
        lambda peer: Client(peer, alive.add),
        lambda peer: _keep(gzip.GzipFile(fileobj=peer.makefile("rb"))).read(),
    ],
    ids=["object", "file", "weakly", "gzip"],
)
def test_one_that_somebody_else_can_come_by(waiting: Waiting, body: Any) -> None:
    found = hazards(waiting.thread(body))
    assert found and all(hazard.what.startswith("BufferedReader") for hazard in found)
    kept.clear()


def _read(file: IO[bytes]) -> None:
    _read_on(file)


def _read_on(file: IO[bytes]) -> None:
    file.readline()


def test_one_that_was_passed_through_calls(waiting: Waiting) -> None:
    """The slots from which arguments went to the called function still show them."""

    def body(peer: socket.socket) -> None:
        kept.append(peer.makefile("rb"))
        _read(kept[-1])

    found = hazards(waiting.thread(body))
    assert found and all(hazard.what.startswith("BufferedReader") for hazard in found)
    kept.clear()


def test_a_lock_that_threads_share_among_themselves(stage: Stage) -> None:
    """A thread, and one that it has started itself and keeps: both vanish."""
    gate, ended = stage.gate(), threading.Event()

    def work(lock: Any) -> None:
        with lock:
            gate.wait()

    def body() -> None:
        own = threading.Thread(target=work, args=(threading.Lock(),), daemon=True)
        own.start()
        ended.wait()

    stage.start(body)
    gate.reached()
    assert [h.what for h in forkproof.assess().hazards if h.kind == "held-lock"] == []
    ended.set()


class SlowRaw(io.RawIOBase):
    """A file on another machine: what is written when it is closed takes its time."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.gate.wait()
        return len(data)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_file_that_its_thread_is_closing(stage: Stage, text: bool, shared: bool) -> None:
    """The `with` that leaves it has one more reference to it, in the bound `__exit__`."""
    gate = stage.gate()

    def body() -> None:
        file: Any = io.BufferedWriter(SlowRaw(gate))
        if text:
            file = io.TextIOWrapper(file)
        if shared:
            kept.append(file)
        with file as opened:
            opened.write("x" if text else b"x")

    told = hazards(stage.at(gate, body))
    assert [h.what.startswith("BufferedWriter") for h in told] == [True] * shared
    kept.clear()


locks: Any = weakref.WeakValueDictionary()


def _lock_for(key: str, kind: Any) -> Any:
    """One for each key, for as long as somebody uses it."""
    lock = locks.get(key)
    if lock is None:
        lock = locks[key] = kind()
    return lock


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_lock_that_is_found_through_a_weak_reference(stage: Stage, kind: Any) -> None:
    gate = stage.gate()

    def body() -> None:
        with _lock_for("user", kind):
            gate.wait()

    assert len(hazards(stage.at(gate, body))) == 1


class Own:
    """Its method, or its making, waits with a lock that it was given or has made."""

    def __init__(self, gate: Any = None, lock: Any = None) -> None:
        self.lock = lock or threading.Lock()
        if gate:
            self.work(gate)

    def work(self, gate: Any) -> None:
        with self.lock:
            gate.wait()

    __call__ = work


class Heir(Own):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)


@pytest.mark.parametrize(
    "body",
    [
        lambda gate: Own()(gate),
        lambda gate: Own().work(*(gate,)),
        lambda gate: [Own().work(*each) for each in [(gate,)]],
        lambda gate: Own().work(**{"gate": gate}),
        lambda gate: Own()(gate=gate),
        lambda gate: Own()(**{"gate": gate}),
        lambda gate: Own(*(gate, threading.Lock())),
        lambda gate: Own(gate=gate),
        lambda gate: Own(**{"gate": gate}),
        lambda gate: list(map(Own, [gate])),
        lambda gate: functools.partial(Own, gate)(),
        lambda gate: Heir(*(gate,)),
    ],
    ids=[
        "instance",
        "method",
        "in a list",
        "method by names",
        "instance by a name",
        "instance by names",
        "class by a tuple",
        "class by a name",
        "class by names",
        "class by map",
        "class by partial",
        "class by its heir",
    ],
)
def test_a_lock_that_goes_through_calls_of_c_code(stage: Stage, body: Any) -> None:
    gate = stage.gate()
    assert hazards(stage.at(gate, body, gate)) == []


@pytest.mark.parametrize(
    "body",
    [
        lambda gate, made: list(map(Own.__init__, [made], [gate])),
        lambda gate, made: made(gate=gate),
        lambda gate, made: functools.partial(Own.__init__, made)(gate),
    ],
    ids=["by map", "instance by a name", "by partial"],
)
def test_one_that_others_have_goes_through_such_calls(stage: Stage, body: Any) -> None:
    gate, made = stage.gate(), Own()
    (hazard,) = hazards(stage.at(gate, body, gate, made))
    assert hazard.kind == "held-lock"


local = threading.local()
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")


def _in_a_local(gate: Any, own: Any) -> None:
    local.own = own
    del own
    local.own.work(gate)


def _in_a_context_variable(gate: Any, own: Any) -> None:
    """In a context of its own: from 3.14 on that in which a thread begins is kept by the Thread object, which others may have."""

    def work(given: list[Any]) -> None:
        variable.set(given.pop())
        variable.get().work(gate)

    given = [own]
    del own
    contextvars.Context().run(work, given)


def _fails(own: Any, times: int) -> None:
    if times:
        _fails(own, times - 1)
    raise KeyError


def _handling(gate: Any, own: Any) -> None:
    """The exception keeps what is left of the calls that it went through, and their variables."""
    try:
        _fails(own, 2)
    except KeyError:
        own.work(gate)


def _handling_two(gate: Any, own: Any) -> None:
    try:
        _fails(own, 2)
    except KeyError as first:
        try:
            raise IndexError from first
        except IndexError:
            _handling(gate, own)


@pytest.mark.parametrize("shared", [False, True], ids=["its own", "shared"])
@pytest.mark.parametrize("body", [_in_a_local, _in_a_context_variable, _handling, _handling_two])
def test_what_a_thread_has_besides_its_variables(stage: Stage, body: Any, shared: bool) -> None:
    local.own = None  # this thread has a part of the same local
    gate = stage.gate()

    def begin() -> None:
        own = Own()
        if shared:
            kept.append(own)
        body(gate, own)

    thread = stage.at(gate, begin)
    assert [h.kind for h in hazards(thread)] == (["held-lock"] if shared else [])
    kept.clear()


def test_a_thread_object_with_a_file_of_its_own(waiting: Waiting) -> None:
    """The child takes the thread out of threading's list before anybody can ask it for the file."""
    near, far = socket.socketpair()
    waiting.ends += [near, far]

    class Reader(threading.Thread):
        def run(self) -> None:
            self.file = near.makefile("rb")
            self.file.readline()

    Reader(daemon=True).start()
    (ident,) = (t.ident for t in threading.enumerate() if isinstance(t, Reader))
    until(lambda: _stands_in(ident, "readinto"))
    assert [h for h in forkproof.assess().hazards if h.thread and h.thread.ident == ident] == []


def _unread(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["wb", "w"])
@pytest.mark.parametrize("known", [False, True], ids=["its own", "shared"])
def test_a_file_that_a_with_leaves(stage: Stage, known: bool, mode: str, fails: bool) -> None:
    """What it has in its buffer does not go into the pipe at once, so the exit does not come to its end."""
    ours, theirs = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)

    def body() -> None:
        with suppress(KeyError), open(theirs, mode, buffering=400_000) as file:
            if known:
                kept.append(file)
            file.write("x" * 300_000 if mode == "w" else b"x" * 300_000)
            if fails:
                raise KeyError

    thread = stage.start(body)
    until(lambda: _unread(ours) == 4096)
    found = [hazard.what for hazard in hazards(thread)]
    assert found == ([f"BufferedWriter on descriptor {theirs}"] if known else [])
    while os.read(ours, 100_000):
        pass
    thread.join()
    os.close(ours)
    kept.clear()


def test_the_list_of_arguments_that_a_call_has_freed_is_not_read(run: Run) -> None:
    """Up to 3.13 `f(*[...])` leaves it in its slot while a function in C calls Python; here what is freed is overwritten."""
    code = """
import threading, forkproof
lock, inside, go = threading.Lock(), threading.Event(), threading.Event()
class Made:
    def __init__(self, *given):
        with lock:
            inside.set()
            go.wait()
def fill():
    # Lists that are let go of are kept for the next ones, up to a number: from here on they are freed.
    del [[[]] for _ in range(1000)][:]
def body():
    Made(*[*(lock,), fill()])
thread = threading.Thread(target=body)
thread.start()
inside.wait()
print([h.kind for h in forkproof.assess().hazards])
go.set()
thread.join()
"""
    ended = run("-c", code, env={"PYTHONMALLOC": "debug"})
    assert (ended.status, ended.stdout) == (0, "['held-lock']\n"), ended.stderr


@pytest.mark.parametrize("at", [10, 2500, 4000])
def test_a_lock_of_a_long_list_that_others_have_too(stage: Stage, at: int) -> None:
    """Of a long list only the first things are followed, and what is not followed counts as somebody else's."""
    gate = stage.gate()
    many = [threading.Lock() for _ in range(5000)]

    def body(gate: Any, locks: Any) -> None:
        with locks[at]:
            gate.wait()

    thread = stage.at(gate, body, gate, many)
    (hazard,) = hazards(thread)
    assert hazard.kind == "held-lock"


class Reader:
    """Has a decompressor, which the collector does not know."""

    def __init__(self) -> None:
        self.decompressor = zlib.decompressobj()


@pytest.mark.parametrize("shared", [False, True], ids=["its own", "shared"])
def test_a_decompressor_in_an_attribute(stage: Stage, shared: bool) -> None:
    """It has enough to do for many looks; those at which the thread was there before and after count."""
    data = zlib.compress(bytes(1 << 29), 1)

    def body() -> None:
        reader = Reader()
        if shared:
            kept.append(reader)
        begun.set()
        reader.decompressor.decompress(data, 1 << 29)

    begun = threading.Event()
    thread = stage.start(body)
    begun.wait()
    seen = []
    while thread.is_alive() and (not shared or not any(seen)):
        found = hazards(thread)
        if thread.is_alive():
            seen.append(found)
    kept.clear()
    assert seen and any(seen) == shared


def test_the_file_that_a_time_zone_is_read_from(
    stage: Stage, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`zoneinfo` in C opens it, and has Python code read it."""
    os.mkfifo(tmp_path / "Zone")
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    zoneinfo.reset_tzpath([str(tmp_path)])
    writer = os.open(tmp_path / "Zone", os.O_RDWR)

    def body() -> None:
        with suppress(ValueError):  # it is none
            zoneinfo.ZoneInfo.no_cache("Zone")

    try:
        thread = stage.start(body)
        until(lambda: _stands_in(thread.ident, "from_file"))
        for _ in range(20):
            assert hazards(thread) == []
    finally:
        os.write(writer, bytes(1000))
        os.close(writer)
        zoneinfo.reset_tzpath()
        thread.join()
