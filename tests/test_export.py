"""Events sent on by whoever follows them: OpenTelemetry and Sentry by their own SDKs, to servers that decode what comes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import receiving
from conftest import Run, Start

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("sentry_sdk")

# A child that hangs for certain, on a lock that a thread had which has secrets among its variables.
HANGS = """
import os, sys, threading
lock, have, end = threading.Lock(), threading.Event(), threading.Event()
def keep():
    confidential = "Kafkaesque"
    with lock:
        have.set()
        end.wait()
threading.Thread(target=keep, name="keeper").start()
have.wait()
pid = os.fork()
if not pid:
    password = "Kafkaesque"
    lock.acquire()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
end.set()
"""
WAITS = """
import os, threading, time
lock, have, forking = threading.Lock(), threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)   # runs before Forkproof looks
def keep():
    with lock:
        have.set()
        forking.wait()
        time.sleep(0.5)
threading.Thread(target=keep).start()
have.wait()
for _ in range(2):
    if not os.fork():
        os._exit(0)
    os.wait()
"""
FORKS = "import os\nif os.fork(): os.wait()"
OBSERVE = ("--policy", "observe", "--hang-after", "0.5", "--on-hang", "kill")


def _forkproof(
    run: Run, *args: str | Path, env: dict[str, str | None], limit: float = 60
) -> tuple[int, str, str]:
    ended = run("-m", "forkproof", *args, env=env, limit=limit)
    return ended.status, ended.stdout, ended.stderr


def test_a_hang_reaches_both_with_the_two_stacks_and_no_values(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    with receiving.otlp() as collector, receiving.sentry() as ingest:
        where = {**collector.environment, **ingest.environment}
        status, told, said = _forkproof(run, "run", "--otel", "--sentry", *OBSERVE, script, env=where)
    assert (status, told) == (0, f"{-signal.SIGABRT}\n"), said

    logs = {record.event_name: (attributes, record) for attributes, record in collector.logs()}
    assert {name: record.severity_text for name, (_, record) in logs.items()} == {
        "forkproof.fork": "WARN",
        "forkproof.hang": "ERROR",
    }
    hang, record = logs["forkproof.hang"]
    assert record.time_unix_nano <= record.observed_time_unix_nano
    assert (hang["forkproof.hang.verdict"], hang["forkproof.hazard.thread.name"]) == ("proven", "keeper")
    assert f'File "{script}", line 14, in <module>' in hang["code.stacktrace"]
    assert f'File "{script}", line 8, in keep' in hang["forkproof.hazard.stacktrace"]
    assert hang["process.parent_pid"] == logs["forkproof.fork"][0]["process.pid"]

    assert [value for _, value in collector.points("forkproof.hangs")] == [1]
    ((kind, count),) = collector.points("forkproof.forks_at_risk")
    assert (kind["forkproof.hazard.kind"], count) == ("held-lock", 1)
    assert {resource["service.name"] for resource, _ in collector.metrics()} == {"hangs.py"}

    (event,) = ingest.events()
    waits, had = event["threads"]["values"]
    assert [frame["lineno"] for frame in waits["stacktrace"]["frames"]] == [14]
    assert [f["lineno"] for f in had["stacktrace"]["frames"] if f["filename"] == str(script)] == [8]
    assert (waits["crashed"], had["crashed"], "keeper" in had["name"]) == (True, False, True)
    assert event["fingerprint"] == ["forkproof.hang", "held-lock", "lock of hangs.py"]
    assert not {"modules", "user", "extra", "release"} & event.keys()
    for _, body in [*collector.posts, *ingest.posts]:
        assert b"Kafkaesque" not in body


def test_waits_are_a_histogram_in_seconds_and_every_fork_is_counted(run: Run, tmp_path: Path) -> None:
    with receiving.otlp() as collector:
        env = {**collector.environment, "OTEL_SERVICE_NAME": "checkout"}
        status, _, said = _forkproof(run, "run", "--otel", "--wait", "20", "-c", WAITS, env=env)
    assert status == 0, said
    forks = {of["forkproof.fork.outcome"]: value for of, value in collector.points("forkproof.forks")}
    assert forks == {"waited": 1, "clear": 1}
    resource, waited = [one for one in collector.metrics() if one[1].name == "forkproof.fork.wait.duration"][
        -1
    ]
    assert (waited.unit, resource["service.name"]) == ("s", "checkout")
    (point,) = waited.histogram.data_points
    assert (point.count, 0 < point.sum < 20, point.explicit_bounds[0]) == (1, True, 0.0005)
    assert {metric.unit for _, metric in collector.metrics()} == {"{fork}", "s"}
    assert collector.logs() == []


def test_a_program_does_not_wait_for_a_server_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    with receiving.otlp() as collector:
        collector.answers.clear()
        status, _, said = _forkproof(run, "run", "--otel", "-c", FORKS, env=collector.environment, limit=60)
    assert (status, said) == (0, "forkproof: not all was exported in 5 s\n")


def test_one_that_is_not_there_is_said_once(run: Run, tmp_path: Path) -> None:
    with receiving.otlp() as gone:
        env = {**gone.environment, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    code = f"import time\n{FORKS}\ntime.sleep(1)"
    status, _, said = _forkproof(run, "run", "--otel", "-c", code, env=env)
    lines = said.splitlines()
    assert status == 0
    assert len(lines) == len(set(lines))
    assert 1 <= sum(line.startswith("forkproof: opentelemetry: ") for line in lines) <= 3


@pytest.mark.parametrize(
    ("missing", "option", "extra"),
    [("opentelemetry", "--otel", "otel"), ("sentry_sdk", "--sentry", "sentry")],
)
def test_without_the_extra_one_line_names_it_and_nothing_is_run(
    run: Run, missing: str, option: str, extra: str
) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None  # as where it is not installed
sys.argv[1:] = ["run", {option!r}, "-c", "print('run')"]
from forkproof.cli import main
sys.exit(main())
"""
    ended = run("-c", code, env={"SENTRY_DSN": "http://public@127.0.0.1:1/7"})
    told = f"forkproof: {option} needs {missing}; install it with: pip install 'forkproof[{extra}]'\n"
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", told)


def test_a_library_that_has_changed_is_one_line_and_the_program_is_not_held_up(run: Run) -> None:
    code = f"""
import sys
sys.modules["opentelemetry.sdk._logs.export"] = None  # as if a later version had it elsewhere
sys.argv[1:] = ["run", "--otel", "-c", {FORKS!r} + "; print('run')"]
from forkproof.cli import main
sys.exit(main())
"""
    ended = run("-c", code)
    assert (ended.status, ended.stdout) == (0, "run\n")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("forkproof: nothing more is exported to OpenTelemetry: ")
    assert line.endswith("install it with: pip install 'forkproof[otel]'")


@pytest.mark.parametrize(
    ("options", "env", "told"),
    [
        (("--sentry",), {"SENTRY_DSN": None}, "set SENTRY_DSN"),
        (
            ("--otel",),
            {"OTEL_METRICS_EXPORTER": "zipkin"},
            "OTEL_METRICS_EXPORTER may be otlp, prometheus, none here",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(
    run: Run, options: tuple[str, ...], env: dict[str, str | None], told: str
) -> None:
    status, out, said = _forkproof(run, "run", *options, "-c", "print('run')", env=env)
    assert (status, out, said.count("\n"), told in said) == (2, "", 1, True)


def _hang(pid: int) -> str:
    """A line that another process might have written."""
    frame = {"file": "/srv/app.py", "line": pid, "function": "work"}
    hang = {
        "v": 1, "event": "hang", "time": "2026-11-23T14:26:03.112345Z", "pid": pid, "parent": 1, "fork": 1, "seconds": 5.0,
        "thread": {"name": "MainThread", "ident": 1, "native_id": pid},
        "waits_for": {"kind": "held-lock", "what": f"connection to redis://app:s3cret{pid}@cache", "stack": [frame]},
        "verdict": "likely", "proof": None, "hazard": None, "advice": "", "host": "web1", "program": "app.py",
    }  # fmt: skip
    return json.dumps(hang) + "\n"


def test_a_file_is_followed_through_its_rotation(tmp_path: Path) -> None:
    """What was there before is left out, and what looks like a credential hidden."""
    file = tmp_path / "events.jsonl"
    file.write_text(_hang(1))
    with receiving.sentry() as ingest:
        command = [sys.executable, "-m", "forkproof", "export", "--sentry", str(file)]
        with subprocess.Popen(
            command, env={**os.environ, **ingest.environment}, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr
            assert process.stderr.readline() == f"forkproof: exporting what comes to {file}\n"
            try:
                with file.open("a") as more:
                    more.write(_hang(2))
                _wait(lambda: len(ingest.events()) >= 1)
                with file.open("a") as old:
                    file.rename(tmp_path / "events.jsonl.1")
                    old.write(_hang(3))
                file.write_text(_hang(4))
                _wait(lambda: len(ingest.events()) >= 3)
                file.write_text("")
                _wait(lambda: _position(process.pid, file) == 0)
                with file.open("a") as emptied:
                    emptied.write(_hang(5))
                    emptied.flush()
                    process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()
    events = ingest.events()
    assert [event["contexts"]["forkproof"]["process.pid"] for event in events] == [2, 3, 4, 5]
    assert {(event["server_name"], event["transaction"]) for event in events} == {("web1", "app.py")}
    assert not any(b"s3cret" in body for _, body in ingest.posts)


def _position(pid: int, file: Path) -> int | None:
    """Up to where the process has read it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if link.readlink() == file:
                return int(Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()[1])
    return None


def _wait(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


def test_a_file_that_is_there_is_exported_to_its_end(run: Run, tmp_path: Path) -> None:
    doubled = {
        "v": 1, "event": "doubled-output", "time": "2026-11-23T14:26:03.112345Z", "pid": 3, "parent": 1, "fork": 1,
        "where": {"file": "/srv/app.py", "line": 3, "function": "work"}, "file": "<stdout>", "fd": 1, "bytes": 7,
        "verdict": "proven", "advice": "flush before the fork",
    }  # fmt: skip
    file = tmp_path / "shop.jsonl"
    file.write_text(_hang(1) + "no event\n" + _hang(2) + json.dumps(doubled) + "\n")
    with receiving.otlp() as collector:
        status, _, said = _forkproof(
            run, "export", "--otel", "--from-start", "--until-end", file, env=collector.environment
        )
    assert status == 0, said
    assert [value for _, value in collector.points("forkproof.hangs")] == [2]
    ((attributes, _), _, (written, record)) = collector.logs()
    assert (record.event_name, record.severity_text) == ("forkproof.doubled_output", "WARN")
    assert (written["file.path"], written["forkproof.output.size"]) == ("<stdout>", 7)
    assert collector.points("forkproof.doubled_outputs") == [({"forkproof.verdict": "proven"}, 1)]
    assert (attributes["host.name"], attributes["forkproof.program"]) == ("web1", "app.py")
    assert {resource["service.name"] for resource, _ in collector.metrics()} == {"shop"}


def test_export_wants_to_know_where_to(run: Run, tmp_path: Path) -> None:
    status, _, said = _forkproof(run, "export", tmp_path / "events.jsonl", env={})
    assert (status, "say where to: --otel, --sentry, or both" in said) == (2, True)


def test_what_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    status, _, said = _forkproof(run, "export", "--otel", tmp_path, env={})
    assert (status, said) == (
        2,
        f"forkproof: cannot read {str(tmp_path)!r}: Is a directory; check the path\n",
    )


def test_a_watch_sends_what_it_finds_and_says_of_which_program(
    run: Run, start: Start, tmp_path: Path
) -> None:
    pytest.importorskip("pystack")
    script, events = tmp_path / "shop.py", tmp_path / "events.jsonl"
    script.write_text(
        HANGS.replace("pid = os.fork()\n", "pid = os.fork()\nif pid: print(os.getpid(), flush=True)\n")
    )
    options = ("watch", "--once", "--hang-after", "1", "--otel", "--sentry", "--events", str(events))
    with (
        start("-W", "ignore", str(script), limit=90) as service,
        receiving.otlp() as collector,
        receiving.sentry() as ingest,
    ):
        service.line()
        where = {**collector.environment, **ingest.environment}
        status, _, said = _forkproof(run, *options, str(service.pid), env=where, limit=90)
    assert status == 1, said
    (event,) = ingest.events()
    assert event["contexts"]["forkproof"]["process.parent_pid"] == service.pid
    assert (event["server_name"], event["transaction"]) == (os.uname().nodename, "shop.py")
    ((of, hangs),) = collector.points("forkproof.hangs")
    assert (of["forkproof.program"], hangs) == ("shop.py", 1)
    assert {resource["service.name"] for resource, _ in collector.metrics()} == {"shop.py"}
    assert json.loads(events.read_text())["program"] == "shop.py"


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ([sys.executable, "-W", "ignore", "waits.py", "--password", "x"], "waits.py"),
        (["/usr/bin/uwsgi", "-"], "uwsgi"),
        (["gunicorn: worker [shop:app]"], "gunicorn"),
        (["[celeryd: celery@web1:MainProcess] -active- (worker)"], "celeryd"),
    ],
)
def test_a_program_is_called_by_its_script_or_by_the_title_that_it_has_given_itself(
    words: list[str], program: str, tmp_path: Path
) -> None:
    from forkproof.doctor.process import program_of

    (tmp_path / "waits.py").write_text("import sys; sys.stdin.read()")
    with subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        _wait(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() != b"")  # a moment after the exec
        assert program_of(process.pid) == program


def test_prometheus_scrapes_a_service_that_forks(run: Run, tmp_path: Path) -> None:
    """Prometheus itself where it is installed; else its own parser reads the page."""
    pytest.importorskip("opentelemetry.exporter.prometheus")
    from prometheus_client.parser import text_string_to_metric_families

    events = tmp_path / "events.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_LOGS_EXPORTER": "none"}
    where |= {"OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    command = [sys.executable, "-m", "forkproof", "export", "--otel", str(events)]

    def page() -> str | None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            return str(answer.read(), "utf-8")
        return None

    with subprocess.Popen(command, env={**os.environ, **where}, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(lambda: page() is not None)
            # Counted are two: one that waited, and one at which nothing was seen.
            assert run("-c", WAITS, env={"FORKPROOF": f"wait=20,events={events}"}).status == 0
            _wait(lambda: 'forkproof_fork_outcome="clear"' in (page() or ""))
            held = page()
            assert held
            if shutil.which("prometheus"):
                _scraped_by_prometheus(tmp_path, port)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    samples = {
        (sample.name, sample.labels.get("forkproof_fork_outcome")): sample.value
        for family in text_string_to_metric_families(held)
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }
    assert "python_info" not in held  # of the exporter's own
    assert samples[("forkproof_forks_total", "waited")] == samples[("forkproof_forks_total", "clear")] == 1
    assert samples[("forkproof_fork_wait_duration_seconds_count", None)] == 1


def _scraped_by_prometheus(folder: Path, port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    config = folder / "prometheus.yml"
    target = f"{{job_name: app, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}"
    config.write_text(f"scrape_configs: [{target}]\n")
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}", "--log.level=error",
    ]  # fmt: skip

    def counted() -> bool:
        query = "http://127.0.0.1:%d/api/v1/query?query=sum(forkproof_forks_total)" % own
        with suppress(OSError), urllib.request.urlopen(query, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
            return bool(found) and found[0]["value"][1] == "2"
        return False

    with subprocess.Popen(command) as prometheus:
        try:
            _wait(counted)
        finally:
            prometheus.terminate()
            prometheus.wait(30)


def test_a_destination_that_makes_no_sense_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(_hang(1))
    options = ("--sentry", "--from-start", "--until-end", str(file))
    status, _, said = _forkproof(run, "export", *options, env={"SENTRY_DSN": "nonsense"})
    assert (status, said.count("\n")) == (2, 2)
    assert said.splitlines()[1].startswith("forkproof: nothing more is exported to Sentry: ")
    program = _forkproof(run, "run", "--sentry", "-c", "print('run')", env={"SENTRY_DSN": "nonsense"})
    assert program == (0, "run\n", "")  # there was nothing to send
