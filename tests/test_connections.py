"""Connections that a child inherits: what it does with them is told where it is proven, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from conftest import Run

from forkproof import catalogue, model

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments" / "connections"))

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "confstr") or not os.confstr("CS_GNU_LIBC_VERSION"),
    reason="calls are led elsewhere with glibc only",
)

ANONYMOUS = "aNULL:@SECLEVEL=0"  # TLS without a certificate

PRELUDE = f'''
import json, os, signal, socket, ssl, subprocess, sys, threading, time
ADDRESS = json.loads(sys.argv[1])
FILE = sys.argv[2]
import forkproof

def connected():
    """To the server, which answers each line that it gets. "silent": not; "say": after the next line."""
    c = socket.socket(socket.AF_UNIX if isinstance(ADDRESS, str) else socket.AF_INET)
    c.connect(ADDRESS if isinstance(ADDRESS, str) else tuple(ADDRESS))
    return c

def ask(c, word="word"):
    c.sendall(word.encode() + b"\\n")
    answer = b""
    while not answer.endswith(b"\\n"):
        more = c.recv(100)
        assert more, "the end"
        answer += more
    return answer.decode().strip()

def tls(c):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers({ANONYMOUS!r})
    return context.wrap_socket(c)

def child_of(body):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException as error:
            os.write(2, f"child: {{type(error).__name__}}: {{error}}\\n".encode())
        finally:
            os._exit(status)
    return pid

def ended(pid):
    assert os.waitpid(pid, 0)[1] == 0

def told():
    with open(FILE) as file:
        return [e for e in map(json.loads, filter(lambda line: line.endswith("\\n"), file)) if e["event"] == "shared-connection"]

def until(happened):
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)

class Signal:
    """One process waits for another: pipes of which both have both ends, so they are no connections."""
    def __init__(self): self.r, self.w = os.pipe()
    def give(self): os.write(self.w, b"x")
    def wait(self): os.read(self.r, 1)
'''


def _serve(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, context), daemon=True).start()


def _answer(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), connection:
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        with connection, connection.makefile("rwb") as file:
            for line in file:
                if line != b"silent\n":
                    file.write(line)
                    file.flush()


def serving(address: Any, context: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A server in this process, which is no relation of the programs' but their parent."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as listener:
        listener.bind(address)
        listener.listen(20)
        threading.Thread(target=_serve, args=(listener, context), daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tcp() -> Iterator[Any]:
    yield from serving(("127.0.0.1", 0))


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Any]:
    yield from serving(str(tmp_path / "socket"))


@pytest.fixture
def tls() -> Iterator[Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ANONYMOUS)
    yield from serving(("127.0.0.1", 0), context)


Told = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def told(run: Run, tmp_path: Path) -> Told:
    """What is told of a program's connections. It must end well; `install` is how Forkproof is switched on."""

    def told(address: Any, body: str, install: str = "events=FILE, connections=True") -> list[dict[str, Any]]:
        file = tmp_path / "events.jsonl"
        file.touch()
        code = PRELUDE + f"forkproof.install(warn=False, {install})\n" + dedent(body)
        ended = run("-c", code, json.dumps(address), file, limit=90)
        assert (ended.status, ended.stderr) == (0, ""), ended
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for line in lines:
            assert model.event_from_json(line), line
        return [line for line in lines if line["event"] == "shared-connection"]

    return told


# ----------------------------------------------------------------------------------------------------------------------
# What is told


def test_a_child_that_writes_to_its_parents_connection_is_told(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c = connected()
        def use_it():
            ask(c)
        ended(child_of(use_it))
        assert ask(c, "parent") == "parent"
        """,
    )
    assert (event["verdict"], event["proof"], event["operation"]) == ("proven", "both-open", "write")
    assert event["held_by"] == event["parent"] != event["pid"]
    assert event["connection"]["kind"] == "tcp"
    assert event["connection"]["peer"] == f"127.0.0.1:{tcp[1]}"
    assert event["thread"]["name"] == "MainThread"
    assert event["thread"]["native_id"] == event["pid"]
    functions = [frame["function"] for frame in event["stack"]]
    assert functions == ["ask", "use_it", "child_of", "<module>"]
    assert all(frame["line"] for frame in event["stack"])
    assert "in the child" in event["advice"]
    assert event["connection"]["library"] is None


def test_one_that_only_reads_or_shuts_down_is_told_too(told: Told, tcp: Any) -> None:
    events = told(
        tcp,
        """
        a, b = connected(), connected()
        a.sendall(b"answer\\n")
        ended(child_of(lambda: a.recv(100)))
        ended(child_of(lambda: b.shutdown(socket.SHUT_RDWR)))
        """,
    )
    assert [event["operation"] for event in events] == ["read", "shutdown"]


def test_a_child_that_waits_for_ever_for_an_answer_is_told(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c = connected()
        pid = child_of(lambda: ask(c, "silent"))
        until(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        """,
    )
    assert event["proof"] == "both-open"


def test_that_both_have_used_it_is_known_from_the_kernels_counters(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c, born, go = connected(), Signal(), Signal()
        ask(c, "before")
        pid = child_of(lambda: (born.give(), go.wait(), ask(c)))
        born.wait()
        assert ask(c, "parent") == "parent"
        go.give()
        ended(pid)
        """,
    )
    assert (event["proof"], event["others_wrote"], event["others_read"]) == ("both-used", 7, 7)


def test_that_both_have_used_it_is_known_while_the_child_waits_for_an_answer(told: Told, tcp: Any) -> None:
    body = """
    c, s = connected(), Signal()
    def child():
        c.sendall(b"silent\\n")
        s.give()
        c.recv(100)
    pid = child_of(child)
    s.wait()
    c.sendall(b"silent\\nsilent\\n")
    c.close()  # as a library does that finds the answer of another one in it
    until(told)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    """
    (event,) = told(tcp, body)
    assert (event["verdict"], event["proof"], event["others_wrote"]) == ("proven", "both-used", 14)


def test_inside_tls(told: Told, tls: Any) -> None:
    (event,) = told(
        tls,
        """
        c = tls(connected())
        assert ask(c, "before") == "before"
        ended(child_of(lambda: ask(c)))
        """,
    )
    assert event["connection"]["peer"] == f"127.0.0.1:{tls[1]}"
    assert "ask" in [frame["function"] for frame in event["stack"]]


def test_a_unix_socket_by_its_path(told: Told, unix: Any) -> None:
    (event,) = told(unix, "c = connected()\nended(child_of(lambda: ask(c)))")
    assert (event["connection"]["kind"], event["connection"]["peer"]) == ("unix", unix)
    assert (event["verdict"], event["proof"]) == ("proven", "both-open")


def test_a_thread_of_the_child_by_its_function(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c = connected()
        def body():
            def worker(): ask(c)
            t = threading.Thread(target=worker); t.start(); t.join()
        ended(child_of(body))
        """,
    )
    assert event["thread"]["native_id"] != event["pid"]
    assert (
        "worke" in event["thread"]["name"]
    )  # the system's name of it from 3.14 on, which has room for 15 characters


def test_a_connection_of_the_grandparents(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c, closed = connected(), Signal()
        def parent():
            pid = child_of(lambda: (closed.wait(), ask(c)))
            c.close()
            closed.give()
            ended(pid)
        ended(child_of(parent))
        """,
    )
    assert event["held_by"] not in (event["parent"], event["pid"])


def test_each_connection_is_told_once_a_process(told: Told, tcp: Any) -> None:
    events = told(
        tcp,
        """
        a, b = connected(), connected()
        def body():
            for _ in range(3):
                ask(a); ask(b)
        ended(child_of(body))
        ended(child_of(body))
        """,
    )
    assert len(events) == 4


def test_an_answer_to_a_subprocess_that_a_child_takes_is_likely(told: Told, tcp: Any) -> None:
    """Pipes may be shared on purpose: small writes never mix, and who has the other end cannot be known."""
    (event,) = told(
        tcp,
        """
        p = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        def body():
            os.write(p.stdin.fileno(), b"word")
            assert os.read(p.stdout.fileno(), 4) == b"word"
        ended(child_of(body))
        p.communicate()
        """,
    )
    assert (event["connection"]["kind"], event["operation"]) == ("pipe", "read")
    assert (event["verdict"], event["proof"]) == ("likely", None)


def test_an_accepted_connection_that_both_answer(told: Told, tcp: Any) -> None:
    """A child that falls out of a request's handler, into its server's code."""
    (event,) = told(
        tcp,
        """
        l = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(l.getsockname())
        c, _ = l.accept()
        born, go = Signal(), Signal()
        pid = child_of(lambda: (born.give(), go.wait(), c.sendall(b"answer of the child")))
        born.wait()
        c.sendall(b"answer")
        go.give()
        ended(pid)
        """,
    )
    assert (event["verdict"], event["proof"], event["others_wrote"]) == ("proven", "both-used", 6)


def test_without_an_events_file_it_is_a_line_on_stderr(run: Run, tcp: Any) -> None:
    code = PRELUDE + "forkproof.install(connections=True)\nc = connected()\nended(child_of(lambda: ask(c)))"
    ended = run("-c", code, json.dumps(tcp), "")
    assert ended.status == 0
    (line,) = ended.stderr.splitlines()
    assert f"writes to a connection (tcp to 127.0.0.1:{tcp[1]}) that it has inherited" in line
    assert "[proven by both-open]" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_parent_that_may_not_be_looked_at_is_likely_to_have_it(run: Run, tcp: Any) -> None:
    code = PRELUDE + dedent(
        """
        forkproof.install(connections=True)
        c = connected()
        def body():
            os.setuid(65534)
            ask(c)
        ended(child_of(body))
        """
    )
    ended = run("-c", code, json.dumps(tcp), "")
    assert ended.status == 0
    assert "may have it open as well [likely]" in ended.stderr


def test_forkproof_run_tells_it_and_strict_fails(run: Run, tmp_path: Path, tcp: Any) -> None:
    script = tmp_path / "app.py"
    script.write_text(PRELUDE + "c = connected()\nended(child_of(lambda: ask(c)))")
    ended = run("-m", "forkproof", "run", "--strict", script, json.dumps(tcp), "", limit=90)
    assert ended.status == 70
    assert "writes to a connection that it shares with another process" in ended.stderr
    assert "proven (by both-open)" in ended.stderr
    assert "1 shared connection used" in ended.stderr
    ended = run("-m", "forkproof", "run", "--no-connections", script, json.dumps(tcp), "", limit=90)
    assert (ended.status, ended.stderr) == (0, "")


# ----------------------------------------------------------------------------------------------------------------------
def test_a_parent_that_drops_it_when_it_finds_it_used_long_after_the_fork(told: Told, tcp: Any) -> None:
    (event,) = told(
        tcp,
        """
        c, done = connected(), Signal()
        def body():
            time.sleep(3.2)
            ask(c)
            done.give()
        pid = child_of(body)
        done.wait()
        c.close()
        ended(pid)
        """,
    )
    assert (event["verdict"], event["proof"], event["operation"]) == ("proven", "both-open", "write")


# What is not


def test_install_does_not_watch_unless_it_is_asked(told: Told, tcp: Any) -> None:
    assert not told(tcp, "c = connected()\nended(child_of(lambda: ask(c)))", install="events=FILE")
    body = "forkproof.uninstall()\nc = connected()\nended(child_of(lambda: ask(c)))"
    assert not told(tcp, body)


def test_a_child_that_inherits_and_does_nothing(told: Told, tcp: Any, tmp_path: Path) -> None:
    assert not told(tcp, "c = connected()\nended(child_of(lambda: c.close()))\nended(child_of(lambda: None))")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {event["risk"] for event in events if event["event"] == "fork"} == {"none"}
    born = [event for event in events if event["event"] == "born"]
    peers = [[c["peer"] for c in event["connections"] if c["kind"] == "tcp"] for event in born]
    assert peers == [[f"127.0.0.1:{tcp[1]}"]] * 2


def test_a_connection_that_the_parent_hands_over(told: Told, tcp: Any) -> None:
    """Also if the child is the faster one."""
    assert not told(
        tcp,
        """
        def hand_over(parent_first):
            c, go, done = connected(), Signal(), Signal()
            def body():
                if parent_first:
                    go.wait()
                ask(c)
                done.give()
                if not parent_first:
                    go.wait()
                ask(c)
            pid = child_of(body)
            if not parent_first:
                done.wait()
            c.close()
            go.give()
            ended(pid)
        hand_over(True)
        hand_over(False)
        """,
    )


def test_a_parent_that_ends_as_it_daemonises(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        c, go, done = connected(), Signal(), Signal()
        def leave():
            pid = os.getpid()
            def daemon():
                os.setsid()
                ask(c)  # while its parent is there
                go.give()
                until(lambda: os.getppid() != pid)
                ask(c)
                done.give()
            child_of(daemon)
            go.wait()
        pid = child_of(leave)
        c.close()
        ended(pid)
        done.wait()
        """,
    )


def test_a_number_that_is_another_file_by_now(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        c = connected()
        def body():
            number = c.detach()
            new = connected()
            os.dup2(new.fileno(), number)
            for fd in (number, new.fileno()):
                assert ask(socket.socket(fileno=os.dup(fd))) == "word"
            os.write(number, b"word\\n")
            assert os.read(number, 100) == b"word\\n"
        ended(child_of(body))
        """,
    )


def test_what_is_made_for_the_family_to_talk(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        def talk(pair, other):
            def child():
                other.sendall(b"x" * 10000)
                assert other.recv(1) == b"y"
            pid = child_of(child)
            got = 0
            while got < 10000:
                got += len(pair.recv(10000))
            pair.sendall(b"y")
            ended(pid)
        talk(*socket.socketpair())
        a, b = socket.socketpair()
        talk(a, b.dup())
        r, w = os.pipe()
        pid = child_of(lambda: os.write(w, b"x" * 10000))
        got = 0
        while got < 10000:
            got += len(os.read(r, 10000))
        ended(pid)
        """,
    )


def test_multiprocessing(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        import multiprocessing as m
        from concurrent.futures import ProcessPoolExecutor
        m = m.get_context("fork")
        def use(pipe, queue, shared):
            pipe.send("child"); assert pipe.recv() == "parent"
            queue.put("item"); shared["key"] = "value"
        with m.Manager() as manager:
            (ours, theirs), queue, shared = m.Pipe(), m.Queue(), manager.dict()
            shared["before"] = 1  # so that this process has a connection to the manager
            p = m.Process(target=use, args=(theirs, queue, shared)); p.start()
            assert ours.recv() == "child"
            ours.send("parent")
            assert queue.get(timeout=30) == "item"
            p.join()
            assert shared["key"] == "value" and p.exitcode == 0
        with m.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        with ProcessPoolExecutor(2, mp_context=m) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        """,
    )


def test_servers_that_fork(told: Told, tcp: Any) -> None:
    """Children that accept, and one that is given what its parent has accepted, which the parent never closes."""
    assert not told(
        tcp,
        """
        l = socket.create_server(("127.0.0.1", 0))
        def serve(c):
            c.sendall(c.recv(100))
        def clients(n):
            for i in range(n):
                with socket.create_connection(l.getsockname()) as c:
                    assert ask(c) == "word"
        workers = [child_of(lambda: [serve(l.accept()[0]) for _ in range(2)]) for _ in range(2)]
        clients(4)
        for pid in workers:
            ended(pid)
        client = threading.Thread(target=clients, args=(1,)); client.start()
        c, _ = l.accept()
        ended(child_of(lambda: serve(c)))
        client.join()
        """,
    )


def test_what_an_event_loop_leaves_behind(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        import asyncio
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        event = os.eventfd(0) if hasattr(os, "eventfd") else None
        def body():
            loop.call_soon_threadsafe(print)  # writes to its own socketpair
            loop.close()
            if event is not None:
                os.eventfd_write(event, 1)
            asyncio.run(asyncio.sleep(0))
        ended(child_of(body))
        """,
    )


def test_standard_streams_that_are_a_connection(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        c = connected()
        for number in (0, 1):
            os.dup2(c.fileno(), number)
        def body():
            print("word", flush=True)
            assert os.read(0, 5) == b"word\\n"
            ask(c)
        ended(child_of(body))
        """,
    )


def test_datagrams_and_what_is_not_connected(told: Told, tcp: Any) -> None:
    assert not told(
        tcp,
        """
        there = socket.socket(type=socket.SOCK_DGRAM); there.bind(("127.0.0.1", 0))
        c = socket.socket(type=socket.SOCK_DGRAM); c.connect(there.getsockname())
        ended(child_of(lambda: c.send(b"metric")))
        fresh = socket.socket()
        def body():
            fresh.connect(tuple(ADDRESS))
            ask(fresh)
        ended(child_of(body))
        """,
    )


def test_a_child_of_subprocess(told: Told, tcp: Any) -> None:
    """vfork() shares the memory; preexec_fn runs hooks."""
    assert not told(
        tcp,
        """
        c = connected()
        def body():
            subprocess.run(["true"], check=True)
            subprocess.run(["true"], check=True, preexec_fn=os.getpid)
        ended(child_of(body))
        assert ask(c) == "word"
        """,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Real servers and their libraries

CLIENTS = {
    "psycopg": (
        "postgresql",
        'import psycopg; c = psycopg.connect(f"host={HOST} port={PORT} user=postgres", autocommit=True)',
        'c.execute("SELECT 1").fetchone()',
        "psycopg",
        "Connection",
    ),
    "redis": (
        "redis",
        "import redis; c = redis.Redis(HOST, PORT, single_connection_client=True)",
        'c.echo("word")',
        "redis-py",
        "Redis",
    ),
    "pymongo": (
        "mongodb",
        """
import pymongo
numbers = pymongo.MongoClient(HOST, PORT).test.numbers
numbers.insert_many([{} for _ in range(100)])
c = numbers.find(cursor_type=pymongo.CursorType.EXHAUST, batch_size=2)
""",
        "for _ in range(5): next(c)",
        "PyMongo",
        "Cursor",
    ),
}


@pytest.mark.parametrize("library", CLIENTS)
def test_a_real_library_on_a_real_server(told: Told, library: str) -> None:
    import servers

    kind, connect, use, name, owner = CLIENTS[library]
    pytest.importorskip(library)
    if lacking := servers.lacking(kind):
        pytest.skip(lacking)
    body = f"""
import warnings; warnings.simplefilter("ignore")
HOST, _, PORT = ADDRESS.partition(":")
PORT = int(PORT)
{connect}
def use():
    {use}
use()
ended(child_of(use))
os._exit(0)
"""
    with servers.server(kind) as address:
        events = told(address, body)
    assert [event["connection"]["peer"] for event in events] == [address]
    (event,) = events
    assert (event["verdict"], event["connection"]["library"]) == ("proven", name)
    assert event["connection"]["owner"] == owner
    assert event["advice"] == next(c.advice for c in catalogue.all_connections() if c.what == name)
    assert "use" in [frame["function"] for frame in event["stack"]]
