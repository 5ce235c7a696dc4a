"""Where telemetry is sent to in these tests: small HTTP servers on loopback that decode what comes, by the formats' own code.

with otlp() as collector:
    run(..., env=collector.environment)
    collector.points("forkproof.forks")      # [(attributes, value)], of the last export of each
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Keeps (path, body) of each POST, and answers 200 to it; with `answers` clear, none until that is set."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.posts.append((self.path, body))
                receiver.asked.set()
                receiver.answers.wait(60)
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    return  # whoever asked has ended

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]


class Collector(Receiver):
    """OTLP over HTTP."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def _requests(self, path: str, request: Any) -> Iterator[Any]:
        for asked, body in [*self.posts]:
            if asked == path:
                yield request.FromString(body)

    def metrics(self) -> list[tuple[dict[str, Any], Any]]:
        """(resource, metric), in the order in which they came."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        return [
            (_plain(of.resource.attributes), metric)
            for request in self._requests("/v1/metrics", ExportMetricsServiceRequest)
            for of in request.resource_metrics
            for scope in of.scope_metrics
            if scope.scope.name == "forkproof"
            for metric in scope.metrics
        ]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """(attributes, value) of each series of a sum, as it was last exported by each process that exports."""
        last = {}
        for resource, metric in self.metrics():
            if metric.name == name:
                for point in metric.sum.data_points:
                    attributes = _plain(point.attributes)
                    value = point.as_int or point.as_double
                    key = resource.get("service.instance.id"), str(sorted(attributes.items()))
                    last[key] = (attributes, value)
        return list(last.values())

    def logs(self) -> list[tuple[dict[str, Any], Any]]:
        """(attributes, record)."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        return [
            (_plain(record.attributes), record)
            for request in self._requests("/v1/logs", ExportLogsServiceRequest)
            for of in request.resource_logs
            for scope in of.scope_logs
            for record in scope.log_records
        ]

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [
            span
            for request in self._requests("/v1/traces", ExportTraceServiceRequest)
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]


class Ingest(Receiver):
    """Sentry's."""

    @property
    def environment(self) -> dict[str, str]:
        return {"SENTRY_DSN": f"http://public@127.0.0.1:{self.port}/7"}

    def events(self) -> list[dict[str, Any]]:
        from sentry_sdk.envelope import Envelope

        envelopes = [Envelope.deserialize(body) for path, body in self.posts if path == "/api/7/envelope/"]
        return [item.payload.json for one in envelopes for item in one.items if item.type == "event"]


@contextmanager
def _serving(receiver: Any) -> Iterator[Any]:
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answers.set()
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def otlp() -> Any:
    return _serving(Collector())


def sentry() -> Any:
    return _serving(Ingest())


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: value(one.value) for one in attributes}


def value(any_value: Any) -> Any:
    """OTLP's AnyValue as Python's."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(one) for one in any_value.array_value.values]
    return getattr(any_value, kind)
