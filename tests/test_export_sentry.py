"""sentry-sdk's own worker in children of a fork, with Forkproof on."""

from __future__ import annotations

import pytest
import receiving
from conftest import Run

pytest.importorskip("sentry_sdk")

PROGRAM = """
import os, forkproof, sentry_sdk
forkproof.install(warn=False)
sentry_sdk.init(default_integrations=False, auto_session_tracking=False, send_client_reports=False, shutdown_timeout=0)
sentry_sdk.capture_message("parent")
sentry_sdk.flush(20)
pid = os.fork()
if not pid:
    sentry_sdk.capture_message("child")
    sentry_sdk.flush(20)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
sentry_sdk.capture_message("parent again")
sentry_sdk.flush(20)
"""


def test_parent_and_child_send_what_is_theirs_and_once(run: Run) -> None:
    """The queue lists the vanished worker as the one to be woken; bare, the child's message is lost."""
    with receiving.sentry() as ingest:
        ended = run("-W", "ignore", "-c", PROGRAM, env=ingest.environment, limit=60)
    assert (ended.status, ended.stderr) == (0, "")
    assert [event["message"] for event in ingest.events()] == ["parent", "child", "parent again"]
