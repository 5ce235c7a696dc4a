"""A web application for gunicorn --preload whose metrics are pushed by a background thread.

The thread starts when the module is imported: with --preload that is in the master, which then forks the workers. It holds
the metrics' lock while it sends them, as many such threads do; whatever worker is forked at such a moment never gets the
lock, and hangs at its first request.
"""

import os
import socket
import threading
import time

from prometheus_client import CollectorRegistry, Counter, generate_latest


class Metrics:
    """Counts requests, and sends the counts to the collector at METRICS_TO (host:port)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._requests = Counter("requests", "Requests served", ["path"], registry=self._registry)
        threading.Thread(target=self._push_for_ever, name="metrics", daemon=True).start()

    def count(self, path: str) -> None:
        with self._lock:
            self._requests.labels(path).inc()

    def push(self) -> None:
        host, _, port = os.environ["METRICS_TO"].partition(":")
        with self._lock, socket.create_connection((host, int(port)), timeout=5) as collector:
            collector.sendall(generate_latest(self._registry) + b"# EOF\n")
            collector.recv(16)

    def _push_for_ever(self) -> None:
        while True:
            self.push()
            time.sleep(0.02)


metrics = Metrics()


def app(environ, start_response):  # type: ignore[no-untyped-def]  # WSGI
    metrics.count(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"in stock\n"]
