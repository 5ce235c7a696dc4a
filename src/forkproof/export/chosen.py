"""Which sinks were asked for: the one place that knows them all."""

from __future__ import annotations

from forkproof.export.base import Sink


def sinks(service: str, *, otel: bool, sentry: bool) -> list[Sink]:
    """Those that were asked for. `service`: what the program is called, where the environment does not say.

    ExportError, before anything is started, where an extra is not installed or a setting is missing."""
    chosen: list[Sink] = []
    if otel:
        from forkproof.export.otel import OpenTelemetry

        OpenTelemetry.check()
        chosen.append(OpenTelemetry(service))
    if sentry:
        from forkproof.export.sentry import Sentry

        Sentry.check()
        chosen.append(Sentry())
    return chosen
