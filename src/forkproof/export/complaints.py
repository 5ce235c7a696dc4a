"""What the libraries log of servers that do not answer: told once each, and not again at every attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOGGERS = ("opentelemetry", "sentry_sdk.errors")


class _Once(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = say
        self._told: set[tuple[str, int]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        place = record.pathname, record.lineno
        if place not in self._told:
            self._told.add(place)
            error = record.exc_info[1] if record.exc_info else None
            more = f": {type(error).__name__}: {error}" if error else ""
            self._tell(f"{record.name.partition('.')[0]}: {record.getMessage()}{more}")


def hear(say: Callable[[str], None]) -> None:
    """From here on, for as long as this process lives: threads of the libraries' outlive what started them."""
    handler = _Once(say)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
