"""Make the transcripts in the documentation and in README.md anew, by running what they show.

    python tools/docs/transcripts.py            all of them
    python tools/docs/transcripts.py NAME ...   these

A transcript is the block after a line `<!-- transcript: NAME -->`; NAME is a function below. Each runs in a folder of its own, with
the interpreter that runs this: a CPython 3.12 or later, for its warning about fork and threads, with
forkproof[lab,doctor] and gunicorn. Where a race decides, it is run until it has been lost.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from forkproof import lab

ROOT = Path(__file__).resolve().parents[2]
ARTICLE = Path(lab.__file__).parent / "programs" / "article.py"
EXAMPLES = ROOT / "examples"
_BLOCK = r"(<!-- transcript: {} -->\n```\w*\n).*?(```)"


def article() -> str:
    return ARTICLE.read_text("utf-8")


def article_hangs() -> str:
    with _folder(ARTICLE) as folder:
        return _typed(folder, "timeout 10 python article.py", status=True)


def article_observed() -> str:
    """Found at the fork: what README begins with."""
    with _folder(ARTICLE) as folder:
        said = _until("ended: not waited for", folder, "forkproof run --policy observe article.py", seconds=4)
        return said.partition("\n\n")[0] + "\n"


def article_hang_told() -> str:
    """The same, and what is said of the child."""
    with _folder(ARTICLE) as folder:
        command = "forkproof run --policy observe --hang-after 2 article.py"
        return _until("proven (by record)", folder, command, seconds=8).partition("\nforkproof: 1 fork,")[0]


def article_hang() -> str:
    """Only what is said of the child, in short."""
    return f"forkproof: {article_hang_told().split(chr(10) + 'forkproof: ')[2].partition(chr(10) + '  it waits')[0]}\n"


def lookups() -> str:
    """The lock of other platforms, traced as the article's authors did."""
    with _folder(ARTICLE.with_name("article_imported.py")) as folder:
        command = "forkproof run --policy observe --emulate getaddrinfo-lock:100 --trace-lookups article_imported.py"
        said = _until("at risk", folder, command, seconds=4)
        lines = [
            line
            for line in said.splitlines()
            if line.startswith("$") or re.search(r"\bpid \d+, thread", line)
        ]
        return "\n".join(lines) + "\n"


def article_waits() -> str:
    with _folder(ARTICLE) as folder:
        return _typed(folder, "forkproof run article.py", status=True)


def article_verified() -> str:
    with _folder(ARTICLE) as folder:
        return _typed(folder, "forkproof verify article.py", seconds=900)


def article_page() -> str:
    with _folder(ARTICLE) as folder:
        _until("proven (by record)", folder, "forkproof run --policy observe --hang-after 2 --events forks.jsonl article.py", seconds=8)  # fmt: skip
        return _typed(folder, "forkproof report --html forks.html forks.jsonl", "ls forks.*")


def doctor() -> str:
    """A process that hangs by itself, without Forkproof in it."""
    with _folder(ARTICLE) as folder:
        for _ in range(20):
            program = subprocess.Popen(["python", "article.py"], cwd=folder, env=_environment(), start_new_session=True, stderr=subprocess.DEVNULL)  # fmt: skip
            try:
                time.sleep(3)
                if program.poll() is None:
                    return _typed(folder, f"forkproof doctor --tree {program.pid}", status=True)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
                program.wait()
    raise RuntimeError("it did not hang")


def warning() -> str:
    with _folder(EXAMPLES / "warning" / "idle.py", EXAMPLES / "warning" / "busy.py") as folder:
        return _typed(folder, "python idle.py") + _typed(folder, "timeout 10 python busy.py", status=True)


def warning_judged() -> str:
    with _folder(EXAMPLES / "warning" / "idle.py", EXAMPLES / "warning" / "busy.py") as folder:
        idle = _typed(folder, "forkproof run --policy observe idle.py")
        return idle + _typed(folder, "forkproof run --policy observe busy.py", seconds=3)


def warning_mended() -> str:
    with _folder(EXAMPLES / "warning" / "busy.py") as folder:
        return _typed(folder, "forkproof run busy.py", seconds=30)


def written_twice() -> str:
    with _folder(EXAMPLES / "output" / "twice.py") as folder:
        return _typed(folder, "forkproof run twice.py | cat")


def processes() -> str:
    with _folder(EXAMPLES / "processes" / "squares.py") as folder:
        hangs = _until("124", folder, "timeout 10 python squares.py fork", status=True)
        return hangs + _typed(folder, "python squares.py forkproof", seconds=60)


def gunicorn() -> str:
    """Its log until a worker is told to hang, under observe."""
    with (
        _folder(EXAMPLES / "servers" / "application.py") as folder,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        command = "gunicorn --preload --workers 2 --max-requests 1 application:app"
        settings = "policy=observe,hang_after=2"
        environment = _environment() | {
            "FORKPROOF": settings,
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{port}",
        }
        with open(folder / "log", "w+b") as log:
            server = subprocess.Popen(command.split(), cwd=folder, env=environment, stderr=log, start_new_session=True)  # fmt: skip
            try:
                end = time.monotonic() + 60
                while (
                    "help: " not in (folder / "log").read_text().partition(" hangs: ")[2]
                    and time.monotonic() < end
                ):
                    with suppress(OSError):
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        said = _neutral((folder / "log").read_text(), folder)
        before, hangs, after = said.partition(" hangs: ")
        warned = [line for line in before.splitlines() if "ForkRiskWarning" in line][:1]
        told = f"{before.rpartition(chr(10))[2]}{hangs}{after.partition(chr(10))[0]}"
        folded = [textwrap.fill(line, 96, subsequent_indent="    ") for line in (*warned, told)]
        return "\n...\n".join((f"$ FORKPROOF={settings} {command}", *folded)) + "\n"


@contextmanager
def _folder(*programs: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="transcript-") as name:
        for program in programs:
            shutil.copy(program, name)
        yield Path(name)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FORKPROOF"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _typed(folder: Path, *commands: str, status: bool = False, seconds: float = 60) -> str:
    """What a terminal would show of these commands; one that takes longer is interrupted (Ctrl-C)."""
    text = ""
    for command in commands:
        said, ended = _run(folder, command, seconds)
        text += f"$ {command}\n{said}"
        if status:
            text += f"$ echo $?\n{ended}\n"
    return text


def _until(wanted: str, folder: Path, command: str, status: bool = False, seconds: float = 60) -> str:
    for _ in range(20):
        said = _typed(folder, command, status=status, seconds=seconds)
        if wanted in said:
            return said
    raise RuntimeError(f"{command} did not say {wanted!r}")


def _run(folder: Path, command: str, seconds: float) -> tuple[str, int]:
    with open(folder / ".said", "w+b") as said:
        process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=_environment(), stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = _neutral((folder / ".said").read_text("utf-8", "backslashreplace"), folder)
    text = text.partition("Traceback (most recent call last):")[0]  # of the interruption
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n" * bool(
        text.strip()
    ), process.returncode


def _neutral(text: str, folder: Path) -> str:
    """Without the folders of this machine."""
    for place in (folder, sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), ROOT):
        text = text.replace(f"{place}/", "")
    return text


SCENES: dict[str, Callable[[], str]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        article, article_hangs, article_observed, article_hang, article_hang_told, article_waits, article_page, article_verified, lookups, doctor,
        warning, warning_judged, warning_mended, written_twice, processes, gunicorn,
    )
}  # fmt: skip


def _renewed(text: str, found: re.Match[str]) -> str:
    return f"{found[1]}{text}{found[2]}"


def main() -> None:
    asked = sys.argv[1:] or list(SCENES)
    if unknown := set(asked) - set(SCENES):
        sys.exit(f"no such transcript: {', '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for name in asked:
        block = re.compile(_BLOCK.format(name), re.DOTALL)
        shown = [page for page in pages if block.search(page.read_text("utf-8"))]
        if not shown:
            sys.exit(f"no page has the transcript {name}")
        text = SCENES[name]()
        for page in shown:
            said = block.sub(partial(_renewed, text), page.read_text("utf-8"))
            page.write_text(said, "utf-8")
        print(name, *(page.relative_to(ROOT) for page in shown), flush=True)


if __name__ == "__main__":
    main()
