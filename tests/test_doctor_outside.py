"""`forkproof run` sees from outside the child that cannot watch itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Run
from doctoring import PRELUDE

# PyDLL keeps the GIL while it calls: with it held the child waits for a mutex of the C library.
FORKS_WITH_THE_GIL = """
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
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    os._exit(0)
"""
HOLDS_THE_GIL = (
    PRELUDE
    + FORKS_WITH_THE_GIL
    + """
print(pid, flush=True)
print(os.waitpid(pid, 0)[1], flush=True)
"""
)


def test_a_child_that_hangs_with_the_gil_held(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HOLDS_THE_GIL)
    options = ("--policy", "observe", "--hang-after", "1", "--on-hang", "kill", "--events", "events.jsonl")
    ended = run("-m", "forkproof", "run", *options, "app.py", cwd=tmp_path, limit=60)
    child, status = map(int, ended.stdout.split())
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (hang,) = [event for event in events if event["event"] == "hang"]
    assert (hang["pid"], hang["verdict"], hang["proof"]) == (child, "proven", "owner")
    assert hang["seconds"] >= 1
    assert "mutex" in hang["waits_for"]["what"]
    assert f"process {child}" in ended.stderr
    assert status & 0x7F == 6  # SIGABRT: somebody who supervises it may start another


SLOW_PREPARE = r"""
#include <pthread.h>
#include <unistd.h>
static void *works(void *nothing) { pause(); return nothing; }
static pthread_t worker;
static void joins(void) { pthread_join(worker, NULL); }
__attribute__((constructor)) static void begin(void) {
    pthread_create(&worker, NULL, works, NULL);
    pthread_atfork(joins, NULL, NULL);
}
"""


def test_a_fork_that_blocks_in_a_librarys_own_handler(run: Run, tmp_path: Path) -> None:
    """In the parent, with the GIL held, before there is a child."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    (tmp_path / "slow.c").write_text(SLOW_PREPARE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "libslow.so", "slow.c"], cwd=tmp_path, check=True)
    (tmp_path / "app.py").write_text("import ctypes, os\nctypes.CDLL('./libslow.so')\nos.fork()\n")
    options = ("--policy", "observe", "--hang-after", "1", "--events", "events.jsonl")
    run("-m", "forkproof", "run", *options, "app.py", cwd=tmp_path, hangs=True, limit=12)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (hang,) = [event for event in events if event["event"] == "hang"]
    assert hang["verdict"] == "likely"
    assert "libslow.so" in hang["waits_for"]["what"]


def test_an_idle_program_is_not_reported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PRELUDE + "thread(time.sleep, 6).join()\n")
    ended = run("-m", "forkproof", "run", "--hang-after", "0.5", "app.py", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
