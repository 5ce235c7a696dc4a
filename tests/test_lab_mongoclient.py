"""The article's programs, with PyMongo and a live server: the 30 s of 2015 (here 3), and what Forkproof makes of them."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Ended, Run

from forkproof import lab
from forkproof.lab import server

if why := server.lacking():
    pytest.skip(why, allow_module_level=True)

from pymongo.uri_parser import parse_uri  # noqa: E402

PROGRAM = Path(lab.__file__).parent / "programs" / "mongoclient.py"
DESIGNS = ["unblocked", "blocking", "lazy", "fork-first"]
FORKPROOF = ("-m", "forkproof", "run")
OBSERVE = (*FORKPROOF, "--policy", "observe")
SLOW = ("--emulate", "getaddrinfo-lock:800")
BLANKET = "MongoClient opened before fork"


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with server.mongodb() as uri:
        yield uri + ("&" if "?" in uri else "?") + "serverSelectionTimeoutMS=3000"


def client(run: Run, uri: str, design: str, *prefix: str | Path) -> Ended:
    return run(*prefix, PROGRAM, design, env={"MONGODB_URI": uri}, limit=90)


def hazards(events: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return [hazard for line in lines if line["event"] == "fork" for hazard in line["hazards"]]


@pytest.mark.parametrize("design", [design for design in DESIGNS if design != "unblocked"])
def test_today_on_linux_designs_without_a_race_work(run: Run, uri: str, design: str) -> None:
    ended = client(run, uri, design)
    assert ended.status == 0
    assert "child: pinged" in ended.stdout


# The program, whose fork waits until $REACHED is there.
FORKS_WHEN_REACHED = """
import os, runpy, sys, time
fork = os.fork
def fork_when_reached():
    while not os.path.exists(os.environ["REACHED"]):
        time.sleep(0.001)
    return fork()
os.fork = fork_when_reached
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def withholding(server: tuple[str, int], reached: Path) -> Iterator[int]:
    """A port that leads to the server. Of the first connection the answers are kept back until there is another one; `reached`
    comes into being when its question has come."""
    another, over = threading.Event(), threading.Event()
    ends: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def first(asks: socket.socket, answers: socket.socket) -> None:
        with suppress(OSError):
            answers.sendall(asks.recv(1 << 16))
        reached.touch()
        another.wait(60)
        threads.append(threading.Thread(target=pump, args=(asks, answers)))
        threads[-1].start()
        pump(answers, asks)

    def serve() -> None:
        while not over.is_set():
            try:
                asks, _ = listening.accept()
            except OSError:
                return
            answers = socket.create_connection(server)
            pairs = [(asks, answers), (answers, asks)] if ends else []
            ends.extend((asks, answers))
            if pairs:
                another.set()
                new = [threading.Thread(target=pump, args=pair) for pair in pairs]
            else:
                new = [threading.Thread(target=first, args=(asks, answers))]
            for thread in new:
                threads.append(thread)
                thread.start()

    listening = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=serve)]
    threads[0].start()
    try:
        yield listening.getsockname()[1]
    finally:
        over.set()
        another.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        threads[0].join(20)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)
        for end in ends:
            end.close()


def test_today_on_linux_the_unblocked_one_works_where_its_thread_waits_for_the_server(
    run: Run, uri: str, tmp_path: Path
) -> None:
    """Where it stands at the fork is a race; here it is inside recv, which no child can miss."""
    host, port = parse_uri(uri)["nodelist"][0]
    if f"//{host}:{port}/" not in uri:
        pytest.skip("the server is the user's own, and not a single one")
    reached = tmp_path / "reached"
    with withholding((host, port), reached) as gate:
        through = uri.replace(f"{host}:{port}", f"127.0.0.1:{gate}").replace("3000", "20000")
        env = {"MONGODB_URI": through + "&directConnection=true", "REACHED": str(reached)}
        ended = run("-c", FORKS_WHEN_REACHED, PROGRAM, "unblocked", env=env, limit=60)
    assert ended.status == 0, ended.stdout + ended.stderr
    assert "child: pinged" in ended.stdout


def test_with_the_lock_the_child_waits_in_vain(run: Run, uri: str, tmp_path: Path) -> None:
    """The main thread is not blocked, so the child does not hang for ever: its monitor does, and so no server is found."""
    events = tmp_path / "events"
    ended = client(run, uri, "unblocked", *OBSERVE, *SLOW, "--events", events)
    assert ended.status == 1
    assert re.search(r"child: ServerSelectionTimeoutError after 3\.\d s", ended.stdout)
    assert {hazard["what"] for hazard in hazards(events)} == {"getaddrinfo"}
    assert hazards(events)[0]["thread"]["name"] == "pymongo_server_monitor_thread"


def test_under_forkproof_it_waits_for_one_look_up(run: Run, uri: str, tmp_path: Path) -> None:
    events = tmp_path / "events"
    ended = client(run, uri, "unblocked", *FORKPROOF, "--wait", "20", *SLOW, "--events", events)
    assert ended.status == 0, ended.stdout
    assert {(hazard["what"], hazard["cleared"]) for hazard in hazards(events)} == {("getaddrinfo", True)}


@pytest.mark.parametrize("design", ["lazy", "fork-first"])
def test_where_nothing_connects_before_the_fork_nothing_is_reported(
    run: Run, uri: str, tmp_path: Path, design: str
) -> None:
    events = tmp_path / "events"
    ended = client(run, uri.replace("3000", "20000"), design, *OBSERVE, *SLOW, "--events", events)
    assert ended.status == 0, ended.stdout
    assert hazards(events) == []
    assert "forkproof" not in ended.stderr
    assert BLANKET not in ended.stderr


def test_the_constructor_returns_at_once_however_many_servers_are_slow(
    run: Run, uri: str, tmp_path: Path
) -> None:
    """A replica set's seed list, one of it dead, and every name slow to resolve: threads connect, in parallel."""
    seeds = uri.replace("localhost", "localhost:1,localhost") + "&replicaSet=secantus"
    if seeds.count("localhost") != 2:
        pytest.skip("the server is the user's own")
    events = tmp_path / "events"
    ended = client(run, seeds, "unblocked", *OBSERVE, *SLOW, "--events", events)
    (seconds,) = re.findall(r"returned after (\S+) s", ended.stdout)
    assert float(seconds) < 0.8  # less than one look-up
    assert ended.status == 1
    threads = [hazard["thread"]["ident"] for hazard in hazards(events) if hazard["what"] == "getaddrinfo"]
    assert len(set(threads)) == 2


def test_several_servers_under_forkproof(run: Run, uri: str) -> None:
    seeds = (
        uri.replace("localhost", "localhost:1,localhost").replace("3000", "20000") + "&replicaSet=secantus"
    )
    if seeds.count("localhost") != 2:
        pytest.skip("the server is the user's own")
    ended = client(run, seeds, "unblocked", *FORKPROOF, "--wait", "20", *SLOW)
    assert ended.status == 0, ended.stdout


def test_pymongos_own_warning_comes_at_every_fork(run: Run, uri: str) -> None:
    """The control of the tests below."""
    assert BLANKET in client(run, uri, "blocking").stderr


def test_it_is_hidden_in_a_child_of_a_fork_that_was_safe(run: Run, uri: str) -> None:
    ended = client(run, uri, "unblocked", *FORKPROOF)
    assert ended.status == 0
    assert BLANKET not in ended.stderr


def test_it_is_kept_if_that_is_asked_for(run: Run, uri: str) -> None:
    assert BLANKET in client(run, uri, "unblocked", *FORKPROOF, "--keep-warnings").stderr


def test_it_is_kept_in_a_child_of_a_fork_at_risk(run: Run, uri: str) -> None:
    assert BLANKET in client(run, uri, "unblocked", *OBSERVE, *SLOW).stderr


def test_locks_that_pymongo_frees_in_the_child_are_no_hazard(run: Run, uri: str) -> None:
    code = """
        import os, sys, threading, pymongo, forkproof
        client = pymongo.MongoClient(os.environ["MONGODB_URI"], connect=False)
        taken, go = threading.Event(), threading.Event()
        plain = threading.Lock()
        def hold(lock):
            with lock:
                taken.set()
                go.wait()
        for lock in (client._lock, plain):
            taken.clear()
            thread = threading.Thread(target=hold, args=(lock,))
            thread.start()
            taken.wait()
            print([hazard.what for hazard in forkproof.assess().hazards])
            go.set()
            thread.join()
            go.clear()
    """
    ended = run("-c", "if 1:" + code, env={"MONGODB_URI": uri})
    first, second = ended.stdout.splitlines()
    assert first == "[]"
    assert second != "[]"
