"""Forks in the program's own OpenTelemetry; and OpenTelemetry's own fork hooks, with Forkproof and without."""

from __future__ import annotations

import time

import pytest
import receiving
from conftest import Run, Start

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

SETUP = """
import os, sys, threading, time
import forkproof, forkproof.otel
from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def provide():
    global meters, tracers, logs
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    tracers, logs = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)
    set_logger_provider(logs)

def shut_down():
    for provider in (meters, tracers, logs):
        provider.shutdown()

def forked(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

lock, have, end = threading.Lock(), threading.Event(), threading.Event()
def keep():
    with lock:
        have.set()
        end.wait()
keeper = threading.Thread(target=keep, name="keeper")
def hold():
    keeper.start()
    have.wait()
def let_go():
    end.set()
    keeper.join()
def told():
    # Until the fork is told of the span that is current: it must still be there then.
    until = time.monotonic() + 20
    while not trace.get_current_span().events:
        assert time.monotonic() < until
        time.sleep(0.01)
"""


def _ran(run: Run, code: str, collector: receiving.Collector, **env: str) -> None:
    ended = run("-W", "ignore", "-c", SETUP + code, env={**collector.environment, **env}, limit=60)
    assert (ended.status, ended.stderr) == (0, "")


def test_forks_are_metrics_and_a_span_event_and_a_log_record_of_the_span_that_forked(run: Run) -> None:
    """Set up in either order, and the child tells nothing of what its parent did."""
    code = """
forkproof.otel.instrument()   # before there is a provider, and before Forkproof is on
forkproof.install(policy="observe", warn=False)
provide()
forkproof.otel.instrument()   # again: still one of each
hold()
def child():
    meters.force_flush()
    with trace.get_tracer("app").start_as_current_span("child"):
        pass
    tracers.force_flush()
    logs.force_flush()
with trace.get_tracer("app").start_as_current_span("parent"):
    forked(child)
    told()
let_go()
forked(lambda: None)
shut_down()
"""
    # Nobody but who flushes exports: a fork in the middle of an export has a hazard more.
    with receiving.otlp() as collector:
        quiet = {"OTEL_METRIC_EXPORT_INTERVAL": "100000", "OTEL_BSP_SCHEDULE_DELAY": "100000"}
        _ran(run, code, collector, **quiet, OTEL_BLRP_SCHEDULE_DELAY="100000")
    forks = {of["forkproof.fork.outcome"]: value for of, value in collector.points("forkproof.forks")}
    assert forks == {"observed": 1, "clear": 1}
    ((kind, count),) = collector.points("forkproof.forks_at_risk")
    assert (kind["forkproof.hazard.kind"], count) == ("held-lock", 1)
    assert len({of["process.pid"] for of, _ in collector.points("forkproof.forks")}) == 1

    spans = {span.name: span for span in collector.spans()}
    ((attributes, record),) = collector.logs()
    (event,) = spans["parent"].events
    assert list(spans["child"].events) == []
    assert (event.name, record.event_name) == ("forkproof.fork", "forkproof.fork")
    assert (record.trace_id, record.span_id) == (spans["parent"].trace_id, spans["parent"].span_id)
    assert event.time_unix_nano == record.time_unix_nano
    assert attributes["forkproof.hazard.thread.name"] == "keeper"
    assert kind["process.pid"] == attributes["process.pid"]


def test_a_wait_is_told_of_the_span_that_it_delayed(run: Run) -> None:
    code = """
provide()
forkproof.install(wait=20)
forkproof.otel.instrument()
hold()
forking = threading.Event()
os.register_at_fork(before=forking.set)   # runs before Forkproof looks
threading.Thread(target=lambda: (forking.wait(), time.sleep(0.5), let_go())).start()
with trace.get_tracer("app").start_as_current_span("parent"):
    forked(lambda: None)
    told()
shut_down()
"""
    with receiving.otlp() as collector:
        _ran(run, code, collector, OTEL_METRIC_EXPORT_INTERVAL="100000")
    ((_, waited),) = collector.points("forkproof.fork.wait.time")
    assert 0 < waited < 20
    (event,) = next(span for span in collector.spans() if span.name == "parent").events
    told = {one.key: receiving.value(one.value) for one in event.attributes}
    assert told["forkproof.fork.wait.duration"] == pytest.approx(waited, abs=0.001)
    assert (told["forkproof.fork.risk"], collector.logs()) == ("none", [])


def test_nothing_of_opentelemetry_is_called_inside_the_fork(run: Run) -> None:
    """A processor that takes a lock which the forking thread has would stop the fork for ever."""
    code = """
from opentelemetry.sdk._logs import LogRecordProcessor
mine, told = threading.Lock(), threading.Event()
class Locking(LogRecordProcessor):
    def on_emit(self, record):
        with mine:
            told.set()
    def shutdown(self): pass
    def force_flush(self, timeout_millis=0): return True
logs = LoggerProvider()
logs.add_log_record_processor(Locking())
forkproof.install(policy="observe", warn=False)
forkproof.otel.instrument(logger_provider=logs)
hold()
with mine:
    forked(lambda: None)
    assert not told.is_set()
assert told.wait(20)
let_go()
"""
    with receiving.otlp() as collector:
        _ran(run, code, collector)


def test_a_library_that_fails_is_not_noticed_and_nothing_is_told_once_it_is_off(run: Run) -> None:
    code = """
from opentelemetry.sdk._logs import LogRecordProcessor
asked = threading.Semaphore(0)
class Failing(LogRecordProcessor):
    def on_emit(self, record):
        asked.release()
        raise RuntimeError("no")
    def shutdown(self): pass
    def force_flush(self, timeout_millis=0): return True
logs = LoggerProvider()
logs.add_log_record_processor(Failing())
forkproof.install(policy="observe", warn=False)
forkproof.otel.instrument(logger_provider=logs)
hold()
for _ in range(2):
    forked(lambda: None)
    assert asked.acquire(timeout=20)
forkproof.otel.uninstrument()
forked(lambda: None)
assert not asked.acquire(timeout=0.3)
let_go()
"""
    with receiving.otlp() as collector:
        _ran(run, code, collector)


def test_a_hang_is_counted_by_the_child_that_exports_on_its_own(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set up in the child, as servers have it in their post-fork hooks: from there on it counts what is its own."""
    code = """
forkproof.install(policy="observe", warn=False, hang_after=0.5)
hold()
forked(lambda: None)
pid = os.fork()
if not pid:
    provide()
    forkproof.otel.instrument()
    forked(lambda: None)
    lock.acquire()
print(pid, flush=True)
sys.stdin.read()
"""
    with receiving.otlp() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        with start("-W", "ignore", "-c", SETUP + code, limit=90) as program:
            pid = int(program.line())
            program.until(lambda: bool(collector.points("forkproof.hangs")))
            hangs, forks = collector.points("forkproof.hangs"), collector.points("forkproof.forks")
    assert hangs == [({"forkproof.hang.verdict": "proven", "process.pid": pid}, 1)]
    assert [(of["process.pid"], value) for of, value in forks] == [(pid, 1)]


def test_without_opentelemetry_it_says_what_to_install(run: Run) -> None:
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\nimport forkproof.otel\nforkproof.otel.instrument()"
    )
    ended = run("-c", code)
    assert ended.status == 1
    assert ended.stderr.endswith("install it with: pip install 'forkproof[otel]'\n")
    assert "ImportError: forkproof.otel needs OpenTelemetry" in ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# OpenTelemetry's own fork hooks


IN_AN_EXPORT = """
provide()
forkproof.install(wait=20, warn=False)
metrics.get_meter("app").create_counter("n").add(1)
with trace.get_tracer("app").start_as_current_span("before"):
    pass
print("exporting", flush=True)
sys.stdin.readline()             # the server has been asked, and does not answer yet
pid = os.fork()
if not pid:
    with trace.get_tracer("app").start_as_current_span("in the child"):
        pass
    threading.Timer(20, os._exit, [3]).start()
    tracers.force_flush()
    meters.force_flush()         # takes the lock that the vanished thread had
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
shut_down()
"""


def test_a_child_forked_in_the_middle_of_exports_exports_and_sends_nothing_twice(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving.otlp() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        collector.answers.clear()
        code = SETUP + IN_AN_EXPORT
        with start("-W", "ignore", "-c", code, limit=90) as program:
            assert program.line() == "exporting"
            program.until(lambda: {path for path, _ in collector.posts} >= {"/v1/metrics", "/v1/traces"})
            program.say("go on")
            time.sleep(0.5)  # the fork waits by now, on a machine that is not too busy
            collector.answers.set()
            assert program.line() == "0"
            assert program.end() == 0
    assert sorted(span.name for span in collector.spans()) == ["before", "in the child"]
