"""Libraries that fork for their users, the real ones, switched on by the variable beside a thread that has a lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run

EXAMPLES = Path(__file__).parent.parent / "examples" / "servers"

# The thread has the lock nearly always: bare, nearly every child hangs on it.
THREAD = """
import os, sys, threading, time
lock = threading.Lock()
def measure():
    while True:
        with lock:
            time.sleep(0.01)
        time.sleep(0.0001)
def work(number):
    with lock:
        return number
if __name__ == "__main__":
    threading.Thread(target=measure, daemon=True).start()
"""


def _forks(events: Path) -> list[dict]:
    lines = map(json.loads, events.read_text().splitlines())
    return [event for event in lines if event["event"] == "fork"]


def _run(run: Run, tmp_path: Path, code: str) -> list[dict]:
    """The forks of a program that must say `done`."""
    events = tmp_path / "events.jsonl"
    events.touch()
    script = tmp_path / "program.py"
    script.write_text(THREAD + code)
    ended = run(script, env={"FORKPROOF": f"wait=30,events={events}"}, limit=90)
    assert (ended.status, ended.stdout) == (0, "done\n"), ended.stderr
    assert "forkproof" not in ended.stderr.lower()
    forks = _forks(events)
    assert {fork["risk"] for fork in forks} <= {"none"}
    return forks


def test_joblib_with_multiprocessing_forks_and_finds_the_lock_free(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    code = """
    import joblib, multiprocessing
    multiprocessing.set_start_method("fork")
    found = joblib.Parallel(n_jobs=2, backend="multiprocessing")(joblib.delayed(work)(n) for n in range(8))
    print("done" if found == list(range(8)) else found)
"""
    assert len(_run(run, tmp_path, code)) >= 2


def test_loky_starts_anew_and_is_left_alone(run: Run, tmp_path: Path) -> None:
    """Its processes are forked in C and become other programs at once: nothing is at risk, and nothing is said."""
    pytest.importorskip("joblib")
    code = """
    import joblib
    found = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(abs)(-n) for n in range(8))
    print("done" if found == list(range(8)) else found)
"""
    assert _run(run, tmp_path, code) == []


def test_pexpect_talks_with_its_program_and_interrupts_it(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pexpect")
    code = """
    import pexpect, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and pass that on
    program = pexpect.spawn("cat", timeout=60)
    program.sendline("hello")
    program.expect("hello")
    program.sendintr()
    program.expect(pexpect.EOF)
    program.close()
    print("done" if program.signalstatus == signal.SIGINT else program)
"""
    (fork,) = _run(run, tmp_path, code)
    assert "ptyprocess" in fork["where"]["file"]


def test_a_loader_whose_workers_take_indices_and_give_batches(run: Run, tmp_path: Path) -> None:
    """As PyTorch's DataLoader is built: a queue of indices for each worker, one of results, an event for the end."""
    code = """
    import forkproof
    context = forkproof.get_context()
    def serve(indices, results, end):
        while not end.is_set():
            index = indices.get()
            if index is None:
                break
            results.put((index, work(index)))
    end, results = context.Event(), context.Queue()
    queues = [context.Queue() for _ in range(2)]
    workers = [context.Process(target=serve, args=(queue, results, end), daemon=True) for queue in queues]
    for worker in workers:
        worker.start()
    for index in range(8):
        queues[index % 2].put(index)
    found = dict(results.get(timeout=60) for _ in range(8))
    end.set()
    for queue in queues:
        queue.put(None)
    for worker in workers:
        worker.join(60)
    print("done" if found == {n: n for n in range(8)} and not any(w.exitcode for w in workers) else found)
"""
    assert len(_run(run, tmp_path, code)) == 2


SEND = """
import sys, time, jobs
from redis import Redis
from rq import Queue
queue = Queue("forkproof", connection=Redis.from_url(sys.argv[1]))
sent = [queue.enqueue(jobs.work, number) for number in range(6)]
end = time.monotonic() + 90
while time.monotonic() < end and not all(job.get_status(refresh=True) in ("finished", "failed") for job in sent):
    time.sleep(0.05)
results = [job.return_value() for job in sent]
print([result and result[0] for result in results] == list(range(6)), len({result[1] for result in results if result}))
"""


def test_rq_forks_for_every_job_and_ends_on_sigterm(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("rq")
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("needs redis-server")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    address, events = f"redis://127.0.0.1:{port}", tmp_path / "events.jsonl"
    redis = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    )
    worker = None
    try:
        while True:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert redis.poll() is None
            time.sleep(0.05)
        with open(tmp_path / "log", "wb") as log:
            worker = subprocess.Popen(
                [sys.executable, EXAMPLES / "jobs.py", address],
                env={**os.environ, "FORKPROOF": f"wait=30,events={events}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        sent = run("-c", SEND, address, cwd=EXAMPLES, limit=120)
        assert sent.stdout == "True 6\n", sent.stderr + (tmp_path / "log").read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        if worker is not None and worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        redis.kill()
        redis.wait()
    forks = [fork for fork in _forks(events) if "rq" in fork["where"]["file"]]
    assert len(forks) >= 6
    assert {fork["risk"] for fork in forks} == {"none"}


DAEMON = """
    from pyspark.daemon import manager
    manager()
"""
SPARK = """
import os
from pyspark import SparkConf, SparkContext
def work(number):
    import __main__ as daemon
    with daemon.lock:
        return os.getpid()
settings = SparkConf().set("spark.python.daemon.module", "busy_daemon").set("spark.python.worker.reuse", "false")
settings = settings.set("spark.ui.enabled", "false").set("spark.driver.bindAddress", "127.0.0.1")
context = SparkContext("local[2]", "forkproof", conf=settings.set("spark.driver.host", "127.0.0.1"))
context.setLogLevel("ERROR")
print("workers", len(set(context.parallelize(range(4), 4).map(work).collect())))
context.stop()
"""


def test_pysparks_daemon_forks_its_workers_beside_a_thread(run: Run, tmp_path: Path) -> None:
    """A daemon module of one's own, as libraries that watch Spark's workers have it."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs java")
    events, script = tmp_path / "events.jsonl", tmp_path / "program.py"
    (tmp_path / "busy_daemon.py").write_text(THREAD + DAEMON)
    script.write_text(SPARK)
    surroundings = {
        "FORKPROOF": f"wait=30,events={events}",
        "PYTHONPATH": str(tmp_path),
        "PYSPARK_PYTHON": sys.executable,
    }
    ended = run(script, env=surroundings, limit=400)
    assert (ended.status, ended.stdout) == (0, "workers 4\n"), ended.stderr
    forks = [fork for fork in _forks(events) if fork["where"]["file"].endswith("pyspark/daemon.py")]
    assert len(forks) >= 4
    assert {fork["risk"] for fork in forks} == {"none"}
