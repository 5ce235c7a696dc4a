"""Healthy programs, idle, slow and busy: the doctor says what they wait for, and that it is no deadlock."""

from __future__ import annotations

import importlib.util
import time

import pytest
from conftest import Start
from doctoring import examine, looked_at, main_thread
from healthy_programs import BUSY, NOT_SEEN, PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_idle(start: Start, name: str) -> None:
    words, program = PROGRAMS[name]
    if "gunicorn" in name and not importlib.util.find_spec("gunicorn"):
        pytest.skip("needs gunicorn")
    with looked_at(start, program) as pid:
        found = examine(pid)
    assert found.verdict in ("none", "unknown"), found.cause
    assert found.proof is None
    assert words in main_thread(found)
    if found.verdict == "none":
        assert found.cause.startswith("not a deadlock")
    else:  # only where it is not seen whether a thread of the fork's was to end the wait
        assert NOT_SEEN.get(name, "?") in found.cause


@pytest.mark.parametrize("name", BUSY)
def test_busy(start: Start, name: str) -> None:
    with looked_at(start, BUSY[name], still=False) as pid:
        for _ in range(5):
            found = examine(pid)
            assert found.verdict == "none", found.cause
            time.sleep(0.05)
