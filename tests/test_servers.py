"""Servers and runners that fork for a living, the real ones, switched on without touching their code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples" / "servers"


@contextmanager
def _gunicorn(folder: Path, variable: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running gunicorn and its address; it must end by itself on SIGTERM, in good order."""
    with socket.socket() as listening, open(folder / "log", "wb") as log:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        descriptor = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}", *options, "application:app"],
            cwd=EXAMPLES,
            env={**os.environ, "FORKPROOF": variable},
            pass_fds=[descriptor],
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process, "http://%s:%d/" % listening.getsockname()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert b"Traceback" not in (folder / "log").read_bytes()


def _ask(address: str, limit: float = 60) -> str:
    with urllib.request.urlopen(address, timeout=limit) as answer:
        text: str = answer.read().decode()
        return text


def _forks(events: Path) -> list[dict[str, object]]:
    lines = map(json.loads, events.read_text().splitlines())
    return [event for event in lines if event["event"] == "fork"]


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn_preloaded_with_a_thread_replaces_its_workers(
    mark: str, tmp_path: Path, worker: str
) -> None:
    """Every worker serves one request. Bare, nearly every one hangs in it (benchmarks/servers.py)."""
    events = tmp_path / "events.jsonl"
    options = (
        "--preload",
        "--workers",
        "2",
        "--worker-class",
        worker,
        "--max-requests",
        "1",
        "--timeout",
        "300",
    )
    with _gunicorn(tmp_path, f"wait=30,events={events}", *options) as (_, address):
        workers = {_ask(address) for _ in range(12)}
    assert len(workers) > 6
    forks = _forks(events)
    assert len(forks) >= len(workers)
    assert {fork["risk"] for fork in forks} == {"none"}


def test_gunicorn_reloads_and_grows_by_its_signals(mark: str, tmp_path: Path) -> None:
    with _gunicorn(tmp_path, "wait=30", "--preload", "--workers", "1") as (arbiter, address):
        first = _ask(address)
        arbiter.send_signal(signal.SIGHUP)
        while _ask(address) == first:
            pass
        arbiter.send_signal(signal.SIGTTIN)
        second = _ask(address)
        while _ask(address) == second:
            pass


SEND = """
import tasks
jobs = [tasks.work.delay(number) for number in range(16)]
done = [job.get(timeout=200) for job in jobs]
print([number for number, _ in done] == list(range(16)), len({pid for _, pid in done}) > 8)
"""


def test_celery_replaces_its_children_at_every_task(mark: str, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    surroundings = {**os.environ, "FOLDER": str(tmp_path), "FORKPROOF": f"wait=30,events={events}"}
    options = [
        "--concurrency=2",
        "--max-tasks-per-child=1",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
    with open(tmp_path / "log", "wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", *options],
            cwd=EXAMPLES,
            env=surroundings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            sent = subprocess.run(
                [sys.executable, "-c", SEND],
                cwd=EXAMPLES,
                env={**surroundings, "FORKPROOF": "off"},
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert sent.stdout == "True True\n", sent.stderr + (tmp_path / "log").read_text()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
    forks = _forks(events)
    assert len(forks) >= 16
    assert {fork["risk"] for fork in forks} == {"none"}


@contextmanager
def _uwsgi(folder: Path, *options: str, **variables: str) -> Iterator[tuple[str, Path]]:
    """A running uWSGI of two workers: its address and its log. It must end by itself on SIGTERM, in good order."""
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("needs uwsgi in the interpreter's environment")
    command = [program, "--http-socket", "127.0.0.1:0", "--master", "--enable-threads", "--processes", "2"]
    log = folder / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, "--die-on-term", "--need-app", *options, "--module", "application:app"],
            cwd=EXAMPLES,
            env={**os.environ, "FORKPROOF": "on", **variables},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while log.read_text().count("spawned uWSGI worker") < 2:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        found = re.search(r"bound to TCP address (127\.0\.0\.1:\d+)", log.read_text())
        assert found
        yield f"http://{found[1]}/", log
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


ADVICE = "uWSGI forks its workers in C"
FORKED = "was forked by C code beside another thread"


HOOKS = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="with it uWSGI 2.0.31 answers nothing on 3.13, without Forkproof too"
)


@pytest.mark.parametrize("options", [(), pytest.param(("--py-call-osafterfork",), marks=HOOKS)])
def test_uwsgi_is_told_that_its_forks_are_not_seen(
    mark: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """At its start, and in each worker that was forked from a process with threads."""
    with _uwsgi(tmp_path, *options, QUIET="1") as (address, log):
        _ask(address)
        while log.read_text().count(FORKED) < 2:
            time.sleep(0.05)
    text = log.read_text()
    assert (text.count(ADVICE), text.count(FORKED)) == (1, 2)


def test_uwsgi_with_lazy_apps_is_told_nothing_and_answers(mark: str, tmp_path: Path) -> None:
    with _uwsgi(tmp_path, "--lazy-apps") as (address, log):
        for _ in range(6):
            _ask(address)
    assert "forkproof" not in log.read_text()
