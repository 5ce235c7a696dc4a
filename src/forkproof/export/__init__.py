"""Events for where people watch their services: OpenTelemetry, Sentry.

Nothing in here runs in the program. Whoever follows the events (`forkproof run`, `forkproof export`, `forkproof watch`) sends them
on, from a process of its own: a child that hangs cannot be relied on to say so, and exporters have threads and locks of their own, which
are what a fork is to be protected from.
"""

from forkproof.export.base import ExportError, Exports, Sink
from forkproof.export.chosen import sinks

__all__ = ["ExportError", "Exports", "Sink", "sinks"]
