"""Processes that wait for one another: who has what each waits for, and whether that is said to be for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Run, Start
from doctoring import doctor, examine, looked_at
from looking import until

from forkproof.doctor.descriptors import Descriptors
from forkproof.model import Diagnosis

# A parent and a child; `meet()` returns in each when the other has come there too.
PAIR = """
    import fcntl, multiprocessing, signal, socket, struct, subprocess, tempfile
    folder = tempfile.mkdtemp()
    def opened(name): return open(os.path.join(folder, name), "w")
    ways = os.pipe(), os.pipe()
    def meet(of=0):
        os.write(ways[of][1], b".")
        os.read(ways[1 - of][0], 1)
"""


def _proven(found: Diagnosis, by: str) -> bool:
    """Whether it is as certain as what may be seen from here allows: on some machines a process may not be looked at."""
    if Descriptors().hole:
        return (found.verdict, found.proof) == ("likely", by) and "(but " in found.cause
    return (found.verdict, found.proof) == ("proven", by)


def test_a_circle_of_two_files(start: Start) -> None:
    program = (
        PAIR
        + """
    pid = os.fork()
    mine, other = ("a", "b") if pid else ("b", "a")
    have = opened(mine)
    fcntl.flock(have, fcntl.LOCK_EX)
    meet(pid == 0)
    if pid: tell(pid)
    fcntl.flock(opened(other), fcntl.LOCK_EX)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
        parent = found.origin.parent
    assert _proven(found, "owner"), found.cause
    assert f"waits for process {parent} (its parent) to unlock" in found.cause
    assert f"process {parent} waits for process {pid} (this one) to unlock" in found.cause


def test_a_lock_of_a_file_that_the_parent_has_which_waits_for_the_child(run: Run, start: Start) -> None:
    """A lock of fcntl's is one process's alone: who else may be seen does not matter."""
    program = (
        PAIR
        + """
    have = opened("a")
    fcntl.lockf(have, fcntl.LOCK_EX)
    child(lambda: fcntl.lockf(opened("a"), fcntl.LOCK_EX))
    """
    )
    with looked_at(start, program) as pid:
        status, (found,) = doctor(run, pid)
    assert (status, found.verdict, found.proof) == (1, "proven", "owner"), found.cause
    assert (
        f"process {found.origin.parent} waits for a child process to end: process {pid} (this one)"
        in found.cause
    )
    assert "in the same order" in found.advice


def test_a_lock_of_an_open_file_that_this_process_has_itself(start: Start) -> None:
    program = (
        PAIR
        + """
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    have, want = opened("a"), opened("a")
    fcntl.fcntl(have, 37, lock)     # F_OFD_SETLK, and F_OFD_SETLKW
    tell(os.getpid())
    fcntl.fcntl(want, 38, lock)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert _proven(found, "owner"), found.cause
    assert "waits for this process itself to unlock" in found.cause


def test_a_file_that_is_read_is_in_the_way_of_who_writes_only(start: Start) -> None:
    program = (
        PAIR
        + """
    have = opened("a")
    fcntl.flock(have, fcntl.LOCK_SH)
    pid = os.fork()
    if not pid:
        have.close()
        shared = opened("a")
        fcntl.flock(shared, fcntl.LOCK_SH)
        tell(os.getpid())
        fcntl.flock(opened("a"), fcntl.LOCK_EX)
    time.sleep(1000)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert "to unlock" in found.threads[0].does
    assert _proven(found, "owner"), found.cause  # its own lock is one of the two, and nobody else has that


ENDS = {
    "a pipe": "reading, writing = os.pipe()",
    "a pair of sockets": "a, b = socket.socketpair(); reading, writing = a.fileno(), b.fileno()",
    "a TCP connection": """
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
    reading, writing = a.fileno(), b.fileno()
    """,
}


@pytest.mark.parametrize("name", ENDS)
def test_a_child_that_waits_for_the_end_of_what_it_could_write_to_itself(start: Start, name: str) -> None:
    program = (
        PAIR
        + f"""
    {ENDS[name]}
    pid = os.fork()
    if not pid:
        tell(os.getpid())
        os.read(reading, 1)
        os._exit(0)
    os.close(reading), os.close(writing)
    os.waitpid(pid, 0)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert _proven(found, "closed-world"), found.cause
    assert "whose other end only this process has itself" in found.cause
    assert "right after the fork" in found.advice


def test_the_same_with_a_thread_that_may_yet_write(start: Start) -> None:
    program = (
        PAIR
        + """
    reading, writing = os.pipe()
    thread(time.sleep, 1000)
    tell(os.getpid())
    os.read(reading, 1)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "none", found.cause


def test_a_reader_whose_sibling_has_inherited_the_end_that_writes(start: Start) -> None:
    program = (
        PAIR
        + """
    first = os.pipe()
    one = os.fork()
    if not one:
        os.close(first[1])
        os.read(first[0], 1)
        os._exit(0)
    second = os.pipe()
    if not os.fork():       # has first[1] too
        os.close(second[1])
        os.read(second[0], 1)
        os._exit(0)
    os.close(first[1])
    tell(one)
    os.waitpid(one, 0)
    os.close(second[1])
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert _proven(found, "closed-world"), found.cause
    assert found.cause.count("reads from a pipe whose other end process") == 2
    assert "waits for a child process to end" in found.cause


def test_a_parent_behind_a_child_that_hangs_is_not_in_the_deadlock(start: Start) -> None:
    program = (
        PAIR
        + """
    lock = threading.Lock()
    lock.acquire()
    pid = os.fork()
    if not pid:
        lock.acquire()
    tell(os.getpid())
    os.waitpid(pid, 0)
    """
    )
    with looked_at(start, program) as pid:
        until(lambda: "and all of them wait (see: forkproof doctor" in examine(pid).cause)
        assert examine(pid).verdict == "none"


def test_a_lock_of_multiprocessing_whose_owner_was_killed(start: Start) -> None:
    program = (
        PAIR
        + """
    context = multiprocessing.get_context("fork")
    lock, has = context.Lock(), context.Event()
    def keep():
        lock.acquire(); has.set(); time.sleep(1000)
    owner = context.Process(target=keep)
    owner.start(); has.wait(); owner.kill(); owner.join()
    def take():
        with lock: pass
    taker = context.Process(target=take)
    taker.start()
    tell(taker.pid)
    taker.join()
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert _proven(found, "owner"), found.cause
    assert "waits for a lock that processes share, which no process has" in found.cause
    assert "ended without letting go of it" in found.cause


def test_a_lock_of_multiprocessing_whose_owner_lives(start: Start) -> None:
    program = (
        PAIR
        + """
    context = multiprocessing.get_context("fork")
    lock, has = context.Lock(), context.Event()
    def keep():
        lock.acquire(); has.set(); time.sleep(1000)
    owner = context.Process(target=keep)
    owner.start(); has.wait()
    def take():
        with lock: pass
    taker = context.Process(target=take)
    taker.start()
    tell(taker.pid)
    taker.join()
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "none"
    owner = int(found.cause.split("which process ")[1].split(" ")[0])
    assert owner != pid
    assert f"process {owner} sleeps" in found.cause


def test_it_says_whose_output_a_parent_waits_for(start: Start) -> None:
    program = (
        PAIR
        + """
    import sys
    asleep = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(1000)"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asleep.stdout.readline()
    tell(os.getpid())
    asleep.communicate()
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "none"
    assert "waits for a child process's output and end" in found.cause
    assert "(its child, " in found.cause
    assert " sleeps" in found.cause


def test_nothing_is_proven_where_a_process_may_not_be_looked_at(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        PAIR
        + """
    reading, writing = os.pipe()
    tell(os.getpid())
    os.read(reading, 1)
    """
    )
    with looked_at(start, program) as pid:
        shut = os.readlink

        def readlink(path: str) -> str:
            if str(path).startswith(f"/proc/{os.getpid()}/fd/"):
                raise PermissionError(path)
            return shut(path)

        monkeypatch.setattr(os, "readlink", readlink)
        found = examine(pid)
    assert (found.verdict, found.proof) == ("likely", "closed-world")
    assert "may not be looked at" in found.cause


def test_a_lock_that_the_thread_which_forked_took_before_the_fork(start: Start) -> None:
    program = """
    lock = threading.Lock()
    def takes():
        with lock: pass
    with lock: child(takes)
    """
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "likely"
    assert "took it itself, perhaps before the fork" in found.cause
    assert "let go of it" in found.advice


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_does_not_answer_is_named(start: Start, host: str) -> None:
    program = f"""
    import socket
    family = socket.AF_INET6 if ":" in {host!r} else socket.AF_INET
    server = socket.create_server(({host!r}, 0), family=family)
    client = socket.create_connection(server.getsockname()[:2])
    print(server.getsockname()[1], file=open("/proc/self/comm", "w"))
    tell(os.getpid())
    client.recv(1)
    """
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with looked_at(start, program) as pid:
        found = examine(pid)
        port = Path(f"/proc/{pid}/comm").read_text().strip()
    shown = f"[{host}]" if ":" in host else host
    assert f"waits for data from a TCP connection to {shown}:{port}" in found.cause


def test_a_child_whose_output_nobody_reads(start: Start) -> None:
    program = """
    import subprocess
    full = subprocess.Popen([sys.executable, "-c", "print('x' * 1000000)"], stdout=subprocess.PIPE)
    tell(os.getpid())
    full.wait()
    """
    with looked_at(start, program) as pid:
        until(lambda: examine(pid).is_deadlock)
        found = examine(pid)
    assert "waits until a pipe takes more data whose other end" in found.cause
    assert "communicate()" in found.advice


# `ours` and `theirs`: the two ends of a connection.
CONNECTED = {
    "IPv4": """
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    """,
    "IPv6": """
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        ours = socket.create_connection(server.getsockname()[:2])
        theirs, _ = server.accept()
    """,
    "IPv4 at a server of both": """
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        ours = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
        theirs, _ = server.accept()
    """,
}
# In the parent `ours`, in the child `theirs`.
TWO = """
    pid = os.fork()
    if pid:
        theirs.close()
        tell(pid)
    else:
        ours.close()
"""


@pytest.mark.parametrize("name", CONNECTED)
def test_two_ends_of_a_connection_that_both_wait_for_the_other_to_speak(start: Start, name: str) -> None:
    if "6" in CONNECTED[name] and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    program = PAIR + CONNECTED[name] + TWO + "    (ours if pid else theirs).recv(1)\n"
    with looked_at(start, program) as pid:
        until(lambda: examine(pid).is_deadlock)
        found = examine(pid)
        parent = found.origin.parent
    assert _proven(found, "closed-world"), found.cause
    assert f"whose other end process {parent} (its parent) has" in found.cause


def test_two_ends_of_a_connection_that_both_have_no_room_for_more(start: Start) -> None:
    program = PAIR + CONNECTED["IPv4"] + TWO + "    (ours if pid else theirs).sendall(bytes(1 << 26))\n"
    with looked_at(start, program) as pid:
        until(lambda: examine(pid).is_deadlock)
        found = examine(pid)
    assert _proven(found, "closed-world"), found.cause


def test_a_connection_whose_other_end_goes_on(start: Start) -> None:
    program = PAIR + CONNECTED["IPv4"] + TWO + "    time.sleep(1000) if pid else theirs.recv(1)\n"
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "none", found.cause
    assert "(its parent) has" in found.cause
    assert "sleeps" in found.cause


def test_a_connection_to_somebody_who_has_not_accepted_it(start: Start) -> None:
    """Whoever has the server may yet."""
    program = (
        PAIR
        + """
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    child(lambda: client.recv(1))
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict == "none", found.cause


@pytest.mark.parametrize(
    ("sets", "verdict"),
    [
        ("[reading], [], []", ("proven", "closed-world")),
        ("[reading], [], [reading]", ("proven", "closed-world")),
        ("[reading, server], [], []", ("none", None)),
        ("[], [server], []", ("none", None)),
    ],
)
def test_select(start: Start, sets: str, verdict: tuple[str, str | None]) -> None:
    """Where one of several descriptors leads out of these processes, somebody may come."""
    program = (
        PAIR
        + f"""
    server = socket.create_server(("127.0.0.1", 0))
    import select
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        tell(os.getpid())
        select.select({sets})
        os._exit(0)
    os.close(reading), os.close(writing)
    os.waitpid(pid, 0)
    """
    )
    with looked_at(start, program) as pid:
        found = examine(pid)
    if verdict[1]:
        assert _proven(found, verdict[1]), found.cause
    else:
        assert (found.verdict, found.proof) == verdict, found.cause
