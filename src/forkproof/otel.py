"""OpenTelemetry in the program's own process: its forks beside its other metrics, and on the spans in which they happen.

    import forkproof.otel
    forkproof.otel.instrument()

Metrics are observable instruments: whoever exports reads the guard's plain counts, when it exports. A fork that was at risk, or that
waited, becomes an event of the span that was current where it happened, and one at risk a log record with that span's ids as well.

Guarantees: inside `os.fork()` nothing of OpenTelemetry is called, no lock is taken, and nothing waits; what is to be told is put into
a bounded queue with the thread's context variables, and a thread that lives only for that tells it when the fork is done. A child
drops what its parent has yet to tell, and counts from nothing. An exception of a library's ends there.

Hangs are counted here only if the child that hangs still exports. For those, and for what waits were like (a histogram), there is
`forkproof export --otel` beside the program; use one of the two for metrics (docs/how-to/telemetry.md).
"""

from __future__ import annotations

import _thread
import contextvars
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from forkproof import __version__, guard
from forkproof.export import semantics
from forkproof.model import Fork

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["instrument", "uninstrument"]

_MOST = 200
"""Forks kept to be told: they are told at once, unless no thread can be started."""


class _State:
    def __init__(self) -> None:
        self.on = False
        self.hooked = False
        self.telling = False
        self.logs: LoggerProvider | None = None
        self.metered: list[Any] = []
        """The providers that have instruments already, None being the global one; they cannot be taken back."""


_state = _State()
_untold: deque[tuple[contextvars.Context, dict[str, Any]]] = deque(maxlen=_MOST)


def instrument(
    meter_provider: MeterProvider | None = None, logger_provider: LoggerProvider | None = None
) -> None:
    """Tell OpenTelemetry of the forks of this process and of those forked from it. Call it beside `forkproof.install()`, before or
    after; again it changes the logger provider and adds the meter provider.

    meter_provider   where the metrics go; the global one if None, also if that is set later.
    logger_provider  where log records go, as above.

    Raises ImportError, naming the extra to install, where OpenTelemetry's API is not installed.
    """
    try:
        from opentelemetry import metrics, trace
        from opentelemetry._logs import get_logger_provider
    except ImportError as error:
        raise ImportError(
            f"forkproof.otel needs OpenTelemetry ({error}); install it with: pip install 'forkproof[otel]'",
            name=error.name,
        ) from None
    # What a library does at the first use only (it looks for a context, a provider) is done here, and not after a fork.
    trace.get_current_span()
    _state.logs = logger_provider or get_logger_provider()
    if guard.counts().pid != os.getpid():
        guard.counts().begin(guard.forks())
    if not any(meter_provider is known for known in _state.metered):
        _state.metered.append(meter_provider)
        meter = (meter_provider or metrics.get_meter_provider()).get_meter(semantics.SCOPE, __version__)
        for metric, observe in _OBSERVED:
            meter.create_observable_counter(metric.name, [observe], metric.unit, metric.description)
    if not _state.hooked:
        _state.hooked = True
        os.register_at_fork(after_in_child=_in_child)
    _state.on = True
    guard.listen(_take)


def uninstrument() -> None:
    """Tell nothing more. The instruments stay, as OpenTelemetry has no way to take one back, and observe nothing."""
    _state.on = False
    guard.listen(None)
    _untold.clear()


def _in_child() -> None:
    _untold.clear()
    _state.telling = False
    guard.counts().begin(guard.forks())


# ----------------------------------------------------------------------------------------------------------------------
# Metrics: called by whoever exports


def _observed(counted: Iterator[tuple[float, dict[str, str]]]) -> Iterator[Observation]:
    """A process that has not forked observes nothing: it is not to be a series of its own in each of a thousand workers. Processes
    that were forked from one share its resource, so what they count is told apart by their id."""
    from opentelemetry.metrics import Observation

    if _state.on:
        for value, attributes in counted:
            if value:
                yield Observation(value, {**attributes, "process.pid": os.getpid()})


def _forks(options: CallbackOptions) -> Iterator[Observation]:
    counts = guard.counts()
    outcomes = {**counts.outcomes}
    clear = guard.forks() - counts.before - sum(n for name, n in outcomes.items() if name != "refused")
    outcomes["clear"] = max(clear, 0)
    return _observed((n, {"forkproof.fork.outcome": name}) for name, n in outcomes.items())


def _forks_at_risk(options: CallbackOptions) -> Iterator[Observation]:
    return _observed((n, {"forkproof.hazard.kind": kind}) for kind, n in [*guard.counts().at_risk.items()])


def _waited(options: CallbackOptions) -> Iterator[Observation]:
    return _observed((seconds, {}) for seconds in [guard.counts().waited])


def _repairs(options: CallbackOptions) -> Iterator[Observation]:
    return _observed((n, {}) for n in [guard.counts().repaired])


def _hangs(options: CallbackOptions) -> Iterator[Observation]:
    return _observed(
        (n, {"forkproof.hang.verdict": verdict}) for verdict, n in [*guard.counts().hung.items()]
    )


_OBSERVED = (
    (semantics.FORKS, _forks),
    (semantics.AT_RISK, _forks_at_risk),
    (semantics.WAITED, _waited),
    (semantics.REPAIRS, _repairs),
    (semantics.HANGS, _hangs),
)


# ----------------------------------------------------------------------------------------------------------------------
# Spans and log records: taken inside os.fork(), told afterwards


def _take(event: dict[str, Any]) -> None:
    _untold.append((contextvars.copy_context(), event))
    if not _state.telling:
        _state.telling = True
        try:
            # Not threading's: to start one of those takes locks, and waits until it runs.
            _thread.start_new_thread(_tell_all, ())
        except RuntimeError:  # there can be no more threads, or the interpreter ends
            _state.telling = False


def _tell_all() -> None:
    while True:
        while _untold:
            with suppress(Exception):  # of a library's, or another thread was faster
                context, event = _untold.popleft()
                context.run(_tell, Fork.from_json(event))
        _state.telling = False
        if not _untold or _state.telling:
            return
        _state.telling = True


def _tell(fork: Fork) -> None:
    """In the context in which the fork happened."""
    from opentelemetry import trace
    from opentelemetry._logs import SeverityNumber

    attributes = semantics.fork(fork)
    when = semantics.nanoseconds(fork.time)
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event("forkproof.fork", attributes, when)
    if fork.risk != "none" and _state.logs is not None:
        logger = _state.logs.get_logger(semantics.SCOPE, __version__)
        logger.emit(
            timestamp=when,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body=semantics.fork_sentence(fork),
            attributes=attributes,
            event_name="forkproof.fork",
        )
