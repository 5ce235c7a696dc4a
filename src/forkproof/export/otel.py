"""Events as OpenTelemetry's metrics and log records, by its SDK, over OTLP.

Where to, how often, and as which service is said by the variables that every OpenTelemetry SDK heeds: `OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, ... (https://opentelemetry.io/docs/specs/otel/
configuration/sdk-environment-variables/). Of the exporters that `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER` may name there are `otlp`
(HTTP, protobuf), `none`, and for metrics `prometheus`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forkproof import __version__
from forkproof.export import semantics
from forkproof.export.base import ExportError, Sink, need, setting
from forkproof.model import Event, Fault, Fork, Hang, Resolved, SharedConnection
from forkproof.report._text import clean

if TYPE_CHECKING:
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.sdk.metrics.export import MetricReader

_METRICS = ("otlp", "prometheus", "none")
_LOGS = ("otlp", "none")


class OpenTelemetry(Sink):
    """Counts events, and writes a log record for each that somebody should look at."""

    name = "OpenTelemetry"
    extra = "otel"

    def __init__(self, service: str) -> None:
        self._service = service
        self._meters: Any = None
        self._loggers: Any = None

    @classmethod
    def check(cls) -> None:
        need("--otel", "otel", "opentelemetry.sdk.metrics", "opentelemetry.exporter.otlp.proto.http")
        if _chosen("OTEL_METRICS_EXPORTER", _METRICS) == "prometheus":
            need("OTEL_METRICS_EXPORTER=prometheus", "otel,prometheus", "opentelemetry.exporter.prometheus")
        _chosen("OTEL_LOGS_EXPORTER", _LOGS)

    def open(self) -> None:
        from opentelemetry._logs import SeverityNumber
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource

        resource = Resource.create()
        if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": self._service}))
        self._severities: type[SeverityNumber] = SeverityNumber
        # Ended by `close`, and with a limit: not when the interpreter ends, which would wait for a server that does not answer.
        self._meters = MeterProvider(_readers(), resource, shutdown_on_exit=False)
        self._loggers = LoggerProvider(resource, shutdown_on_exit=False)
        if _chosen("OTEL_LOGS_EXPORTER", _LOGS) == "otlp":
            self._loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self._logger = self._loggers.get_logger(semantics.SCOPE, __version__)
        meter = self._meters.get_meter(semantics.SCOPE, __version__)

        def counter(metric: semantics.Metric) -> Any:
            return meter.create_counter(metric.name, metric.unit, metric.description)

        self._forks, self._at_risk = counter(semantics.FORKS), counter(semantics.AT_RISK)
        self._repairs, self._hangs = counter(semantics.REPAIRS), counter(semantics.HANGS)
        self._shared = counter(semantics.SHARED)
        self._waits = meter.create_histogram(
            semantics.WAIT.name,
            semantics.WAIT.unit,
            semantics.WAIT.description,
            explicit_bucket_boundaries_advisory=semantics.WAIT_BOUNDS,
        )

    def send(self, event: Event) -> None:
        match event:
            case Fork():
                self._fork(event)
            case Hang():
                kind = {"forkproof.waits_for.kind": event.waits_for.kind}
                told = {**semantics.origin(event), **kind, "forkproof.hang.verdict": event.verdict}
                self._hangs.add(1, told)
                self._log(event, "ERROR", semantics.hang_sentence(event), semantics.hang(event))
            case SharedConnection():
                self._shared.add(1, {"forkproof.verdict": event.verdict})
                text = (
                    f"process {event.pid} uses a connection that another process has open too: {event.advice}"
                )
                self._log(event, "WARN", clean(text), semantics.shared(event))
            case Resolved():
                text = f"process {event.pid}: {event.thread.name} no longer waits for {event.what}; it did not hang for ever"
                who: semantics.Attributes = {
                    "process.pid": event.pid,
                    "thread.name": clean(event.thread.name),
                }
                self._log(event, "INFO", clean(text), who)
            case Fault():
                self._log(event, "ERROR", clean(event.message), {"process.pid": event.pid})

    def close(self, seconds: float) -> None:
        self._meters.shutdown(timeout_millis=seconds * 1000)
        self._loggers.shutdown()

    def _fork(self, event: Fork) -> None:
        whose = semantics.origin(event)
        self._forks.add(1, {**whose, "forkproof.fork.outcome": event.outcome or "clear"})
        if event.waited_ms > 0:
            self._waits.record(event.waited_ms / 1000, whose)
        if event.repaired:
            self._repairs.add(len(event.repaired), whose)
        for kind in semantics.kinds_at_risk(event):
            self._at_risk.add(1, {**whose, "forkproof.hazard.kind": kind})
        if event.risk != "none":
            self._log(event, "WARN", semantics.fork_sentence(event), semantics.fork(event))

    def _log(self, event: Event, severity: str, text: str, attributes: semantics.Attributes) -> None:
        kind = event.event.replace("-", "_")
        self._logger.emit(
            timestamp=semantics.nanoseconds(event.time),
            severity_number=self._severities[severity],
            severity_text=severity,
            body=text,
            attributes=attributes,
            event_name=f"forkproof.{kind}",
        )


def _chosen(variable: str, there_are: tuple[str, ...]) -> str:
    chosen = setting(variable, "otlp")
    if chosen not in there_are:
        raise ExportError(f"{variable} may be {', '.join(there_are)} here, not {chosen!r}")
    return chosen


def _readers() -> list[MetricReader]:
    chosen = _chosen("OTEL_METRICS_EXPORTER", _METRICS)
    if chosen == "none":
        return []
    if chosen == "otlp":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        return [PeriodicExportingMetricReader(OTLPMetricExporter())]
    import prometheus_client
    from opentelemetry.exporter.prometheus import PrometheusMetricReader

    reader = PrometheusMetricReader()
    # It would show this process's own, which nobody has asked for, beside the service's.
    for own in (
        prometheus_client.GC_COLLECTOR,
        prometheus_client.PLATFORM_COLLECTOR,
        prometheus_client.PROCESS_COLLECTOR,
    ):
        prometheus_client.REGISTRY.unregister(own)
    port = setting("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
    prometheus_client.start_http_server(int(port), setting("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost"))
    return [reader]
