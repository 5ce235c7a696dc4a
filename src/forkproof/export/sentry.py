"""Hangs as Sentry's events: the two stacks as threads, grouped by what was held.

`SENTRY_DSN` says where to; `SENTRY_ENVIRONMENT` and `SENTRY_RELEASE` mean what they mean to every Sentry SDK. The client is one of its own:
it has none of the SDK's integrations, and adds nothing of the process that sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forkproof.export import semantics
from forkproof.export.base import ExportError, Sink, need, setting
from forkproof.model import Event, Frame, Hang
from forkproof.report._text import clean

if TYPE_CHECKING:
    import sentry_sdk


class Sentry(Sink):
    """Sends hangs; other events are not errors."""

    name = "Sentry"
    extra = "sentry"

    def __init__(self) -> None:
        self._client: sentry_sdk.Client | None = None

    @classmethod
    def check(cls) -> None:
        need("--sentry", "sentry", "sentry_sdk")
        if not setting("SENTRY_DSN"):
            raise ExportError("--sentry needs to know where to: set SENTRY_DSN to the DSN of your project")

    def open(self) -> None:
        import sentry_sdk

        self._scope = sentry_sdk.Scope()
        self._client = sentry_sdk.Client(
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            send_client_reports=False,
            enable_backpressure_handling=False,
            send_default_pii=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            release=setting(
                "SENTRY_RELEASE"
            ),  # else it would run git to find that of the folder that it is in
            before_send=_without_empty_release,
        )

    def send(self, event: Event) -> None:
        if isinstance(event, Hang):
            assert self._client is not None
            self._client.capture_event(sentry_event(event), scope=self._scope)  # type: ignore[arg-type]  # a TypedDict

    def close(self, seconds: float) -> None:
        assert self._client is not None
        self._client.close(timeout=seconds)


def sentry_event(hang: Hang) -> dict[str, Any]:
    """As https://develop.sentry.dev/sdk/data-model/event-payloads/ has it. The thread that waits is the one that crashed; the other
    is the one that had what it waits for, as it stood in the parent at the fork."""
    kind, what = semantics.what_was_held(hang)
    waits = hang.waits_for
    threads = [
        {
            "id": str(hang.thread.native_id or hang.thread.name),
            "name": clean(hang.thread.name, 255),
            "crashed": True,
            "current": True,
            "main": hang.thread.native_id == hang.pid,
            "stacktrace": {"frames": _frames(waits.stack)},
        }
    ]
    if hang.hazard and hang.hazard.thread and hang.hazard.stack:
        had = hang.hazard.thread
        threads.append(
            {
                "id": f"{hang.parent or '?'}/{had.native_id or had.name}",
                "name": f"{clean(had.name, 255)} (in the parent, at the fork)",
                "crashed": False,
                "current": False,
                "main": False,
                "stacktrace": {"frames": _frames(hang.hazard.stack)},
            }
        )
    said = semantics.hang(hang)
    kept = {
        name.removeprefix("forkproof."): value for name, value in said.items() if "stacktrace" not in name
    }
    tags = {"forkproof.kind": kind, "forkproof.verdict": hang.verdict, "forkproof.program": hang.program}
    event: dict[str, Any] = {
        "level": "error",
        "platform": "python",
        "logger": "forkproof",
        "timestamp": hang.time,
        "logentry": {"formatted": semantics.hang_title(hang)},
        "fingerprint": ["forkproof.hang", kind, what],
        "threads": {"values": threads},
        "tags": {name: str(value)[:200] for name, value in tags.items() if value},
        "contexts": {"forkproof": {**kept, "explanation": semantics.hang_sentence(hang)}},
    }
    if hang.host:
        event["server_name"] = hang.host
    if hang.program:
        event["transaction"] = hang.program
    return event


def _without_empty_release(event: Any, hint: Any) -> Any:
    return event if event.get("release") else {name: event[name] for name in event if name != "release"}


def _frames(stack: Sequence[Frame]) -> list[dict[str, Any]]:
    """Oldest call first."""
    return [
        {
            "filename": clean(frame.file),
            "abs_path": clean(frame.file),
            "function": clean(frame.function),
            **({} if frame.line is None else {"lineno": frame.line}),
        }
        for frame in reversed(stack[: semantics.DEEPEST])
    ]
