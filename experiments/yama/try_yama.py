"""The doctor, the watch and `forkproof run` under each setting of Yama, tried with the kernel that has it.

    tools/machine.py make FOLDER amd64; tools/machine.py run FOLDER experiments/yama/try_yama.py

Yama (Documentation/admin-guide/LSM/Yama.rst) decides who may read another process's memory. As root, in the machine: a child of
`article.py` hangs, started by an ordinary user, without Forkproof. For `kernel.yama.ptrace_scope` 0 to 3 a line says what
each of these said: the doctor by that user and by root; a look of the watch by both; both of them by the user where they are the
program's parent; a `forkproof run` by the user, of a program whose child hangs with the GIL held, so that it can be seen from outside only.
Where the doctor told what to allow, that is done, and it looks again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = 1000
SETTING = Path("/proc/sys/kernel/yama/ptrace_scope")
FORKPROOF = (sys.executable, "-m", "forkproof")
LIMIT = 240.0

ARTICLE = """
import os, socket, threading
def lookup():
    socket.getaddrinfo("localhost", 80)
t = threading.Thread(target=lookup)
t.start()
pid = os.fork()
if pid:
    print(pid, flush=True)
    os.wait()
else:
    socket.getaddrinfo("localhost", 80)
"""

# As a shell's `app & exec forkproof ...`, until the child hangs.
PARENT = """
import os, subprocess, sys
while True:
    program = subprocess.Popen([sys.executable, "-W", "ignore", "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    child = program.stdout.readline().strip()
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        break
os.execv(sys.executable, [sys.executable, "-m", "forkproof", *sys.argv[2:], child])
"""

HOLDS_THE_GIL = """
import ctypes, os, threading, time
mutex = ctypes.create_string_buffer(64)
held = threading.Event()
def keep():
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    held.set()
    time.sleep(1000)
threading.Thread(target=keep, daemon=True).start()
held.wait()
pid = os.fork()
if not pid:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)   # keeps the GIL while it waits
    os._exit(0)
os.waitpid(pid, 0)
os._exit(0)
"""


def as_user(command: tuple[str, ...], user: int, errors: int | None = None) -> subprocess.Popen[str]:
    """Start it in a session of its own, its output in a pipe."""
    return subprocess.Popen(
        command,
        text=True,
        user=user,
        group=user,
        extra_groups=[],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


@contextmanager
def hung_child() -> Iterator[int]:
    """A child of the article's program, the user's, that hangs."""
    while True:
        with as_user((sys.executable, "-W", "ignore", "-c", ARTICLE), USER) as parent:
            assert parent.stdout
            pid = int(parent.stdout.readline())
            try:
                parent.wait(10)  # by then a child that does not hang has ended
            except subprocess.TimeoutExpired:
                try:
                    yield pid
                finally:
                    os.killpg(parent.pid, signal.SIGKILL)
                return


def said(user: int, *options: str) -> tuple[int, str]:
    """Status and the first words of what a command of Forkproof's says."""
    began = time.monotonic()
    with as_user((*FORKPROOF, *options), user, subprocess.STDOUT) as process:
        try:
            told, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return -1, "no answer"
    print(
        f"    ({time.monotonic() - began:.0f} s) $ forkproof {' '.join(options)}  # by {user}, status {process.returncode}"
    )
    for line in told.splitlines()[:4]:
        print("    |", line)
    return process.returncode, told


def by_parent(user: int, *options: str) -> int:
    """Status of a command of Forkproof's that is a forebear of the hung child which it looks at."""
    with as_user((sys.executable, "-c", PARENT, ARTICLE, *options), user, subprocess.STDOUT) as process:
        try:
            process.wait(LIMIT)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout
        lines = process.stdout.read().splitlines()
    print(f"    $ (its parent) forkproof {' '.join(options)}  # by {user}, status {process.returncode}")
    for line in lines[-4:]:
        print("    |", line)
    return process.returncode


def launched(user: int) -> str:
    """The hang that `forkproof run` reported of a child that cannot watch itself."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        program, events = Path(folder, "app.py"), Path(folder, "events.jsonl")
        program.write_text(HOLDS_THE_GIL)
        command = (
            *FORKPROOF,
            "run",
            "--policy",
            "observe",
            "--hang-after",
            "2",
            "--on-hang",
            "kill",
            "--events",
            str(events),
            str(program),
        )
        with as_user(command, user, subprocess.STDOUT) as process:
            try:
                told, _ = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                told, _ = process.communicate()
                told += "\n(killed)"
        for line in told.splitlines()[:14]:
            print("    |", line)
        hangs = [
            event
            for line in events.read_text().splitlines()
            if (event := json.loads(line))["event"] == "hang"
        ]
    return (
        "; ".join(f"{hang['verdict']} by {hang['proof']}: {hang['waits_for']['what']}" for hang in hangs)
        or "nothing"
    )


def main() -> None:
    print(os.uname().release)
    lines = []
    with hung_child() as pid:
        for scope in map(int, sys.argv[1:] or "0123"):
            SETTING.write_text(str(scope))
            print(f"ptrace_scope {SETTING.read_text().strip()}", flush=True)
            for user in USER, 0:
                status, told = said(user, "doctor", str(pid))
                watched, _ = said(user, "watch", "--once", "--hang-after", "1", str(pid))
                lines.append(f"{scope}: user {user}: doctor {status}, watch {watched}")
                if status == 2 and user and "sysctl kernel.yama.ptrace_scope=0" in told:
                    allowed = re.search(r"sudo sysctl (\S+)=(\d)", told)
                    assert allowed
                    SETTING.write_text(allowed[2])
                    status, _ = said(user, "doctor", str(pid))
                    lines.append(f"{scope}: user {user}: doctor {status}, once that was done")
                    SETTING.write_text(str(scope))
            told = by_parent(USER, "doctor"), by_parent(USER, "watch", "--once", "--hang-after", "1")
            lines.append(f"{scope}: user {USER}, its forebear: doctor {told[0]}, watch {told[1]}")
            lines.append(f"{scope}: run: {launched(USER)}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
