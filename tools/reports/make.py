"""Make the pages of docs/reference/reports.md anew, and with a Chromium the pictures of them.

    python tools/reports/make.py              the events and the pages, into build/reports/
    python tools/reports/make.py --pictures   and docs/images/*.png

Needs forkproof[lab,report], gunicorn and prometheus_client; for the pictures playwright, and a Chromium on PATH.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from forkproof import lab
from forkproof.lab import server
from forkproof.report import events_in
from forkproof.report.html import Html

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGES = ROOT / "build" / "reports"
IMAGES = ROOT / "docs" / "images"
PROGRAMS = Path(lab.__file__).parent / "programs"
OBSERVE = ("--policy", "observe", "--hang-after", "2")


def article(events: Path) -> None:
    """The first program of the story; where its thread stands when it forks is chance, so until it hangs."""
    for _ in range(10):
        _run(events, *OBSERVE, PROGRAMS / "article.py", seconds=6)
        if '"event":"hang"' in events.read_text():
            return


def mongoclient(events: Path) -> None:
    """A MongoClient from before the fork, with the getaddrinfo lock of other platforms and a slow name server."""
    with server.mongodb() as uri:
        uri += ("&" if "?" in uri else "?") + "serverSelectionTimeoutMS=8000"
        slow = ("--emulate", "getaddrinfo-lock:800")
        program = (PROGRAMS / "mongoclient.py", "unblocked")
        _run(events, *OBSERVE, *slow, *program, env={"MONGODB_URI": uri}, seconds=30)


def gunicorn(events: Path, *options: str, seconds: float = 25) -> None:
    """A server that preloads an application with a metrics thread, under load; its workers are renewed all the time."""
    with _collector() as collector, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        serve = (
            "--preload",
            "--workers",
            "4",
            "--max-requests",
            "12",
            "--max-requests-jitter",
            "6",
            "--timeout",
            "5",
        )
        options = options or ("--policy", "observe", "--hang-after", "1.5")
        line = (*options, "-m", "gunicorn", *serve, "--bind", f"127.0.0.1:{port}", "shop:app")
        with _load(f"http://127.0.0.1:{port}/item/1"):
            _run(events, *line, env={"METRICS_TO": collector, "PYTHONPATH": str(HERE)}, seconds=seconds)


def _run(events: Path, *arguments: str | Path, seconds: float, env: Mapping[str, str] | None = None) -> None:
    """`forkproof run`, ended after `seconds`."""
    command = [sys.executable, "-m", "forkproof", "run", "--events", events, *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _collector() -> Iterator[str]:
    """The address of something that takes metrics, and its time about it."""

    def take() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                while not connection.recv(1 << 16).endswith(b"# EOF\n"):
                    pass
                time.sleep(0.03)
                connection.sendall(b"thanks\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def _load(url: str, clients: int = 6) -> Iterator[None]:
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                answer.read()

    for _ in range(clients):
        threading.Thread(target=ask, daemon=True).start()
    yield
    ended.set()


def render(events: Path, title: str) -> Path:
    """The page of these events."""
    out = events.with_suffix(".html")
    with out.open("w", encoding="utf-8") as stream, events.open("rb") as file:
        page = Html(stream, title=title)
        for event in events_in(file, page.note):
            page.show(event)
        page.finish()
    return out


def photograph(pages: Mapping[str, Path]) -> None:
    """What docs/reference/reports.md shows: each page on a desk, the last also in the dark, on a phone and on paper."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("pictures need a Chromium on PATH (Debian: apt-get install chromium)")
    desk: dict[str, Any] = {"viewport": {"width": 1240, "height": 860}}
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    last = list(pages)[-1]
    shots = [(name, name, desk) for name in pages]
    shots += [(last, f"{last}-dark", desk | {"color_scheme": "dark"}), (last, f"{last}-phone", phone)]
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] * (os.geteuid() == 0)
        )
        for name, picture, options in shots:
            context = browser.new_context(**options)
            shown = context.new_page()
            shown.goto(pages[name].as_uri())
            shown.wait_for_selector("#lanes .tick")
            shown.screenshot(path=IMAGES / f"report-{picture}.png", full_page=name == "article")
            context.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", action="store_true")
    asked = parser.parse_args()
    os.chdir(ROOT)  # places are told from here
    PAGES.mkdir(parents=True, exist_ok=True)
    cases: dict[str, tuple[Callable[[Path], None], str]] = {
        "article": (article, "article.py, observed"),
        "mongoclient": (mongoclient, "mongoclient.py, observed, with the getaddrinfo lock"),
        "gunicorn-safe": (
            lambda events: gunicorn(events, "--policy", "wait", seconds=15),
            "gunicorn --preload shop:app",
        ),
        "gunicorn": (gunicorn, "gunicorn --preload shop:app, observed"),
    }
    pages = {}
    for name, (play, title) in cases.items():
        events = PAGES / f"{name}.jsonl"
        play(events)
        pages[name] = render(events, title)
        print(pages[name].relative_to(ROOT), flush=True)
    if asked.pictures:
        photograph(pages)


if __name__ == "__main__":
    main()
