"""The story that Forkproof grew from, in six acts, on the machine at hand.

Every run is a real one: nothing here knows how it will end, and what is said at the end is what was seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forkproof.lab import server

PROGRAMS = Path(__file__).parent / "programs"
ARTICLE, IMPORTED, MONGOCLIENT = (
    PROGRAMS / name for name in ("article.py", "article_imported.py", "mongoclient.py")
)
LIMIT = 3.0
FORKPROOF = ("-m", "forkproof", "run")
OBSERVE = (*FORKPROOF, "--policy", "observe")
LOCK = ("--emulate", "getaddrinfo-lock:20")
SLOW_LOCK = ("--emulate", "getaddrinfo-lock:200")


@dataclass(frozen=True, slots=True)
class Stage:
    """fast: shorter waits where their length is not the point. tries: how often a race may be lost."""

    fast: bool = False
    tries: int = 10


def demo(acts: Sequence[int] = (), *, fast: bool = False, tries: int = 10) -> int:
    """Play `acts` (1 to 6; all of them if none) on stdout; 0 if what should finish under Forkproof did."""
    stage = Stage(fast, tries)
    went_well = True
    for number in acts or range(1, len(ACTS) + 1):
        title, act = ACTS[number - 1]
        _say(f"\n{number}. {title}\n")
        went_well &= act(stage)
    return 0 if went_well else 1


def _first(stage: Stage) -> bool:
    _say(f"It looks up a name in a thread, forks, and looks one up in the child ({ARTICLE.name}):\n")
    print("".join(f"    {line}\n" for line in ARTICLE.read_text().splitlines()))
    _say(f"In 2015 it finished on Linux. Here, with {LIMIT:g} seconds to do so:")
    _until_it_hangs([ARTICLE], stage)
    return True


def _who(stage: Stage) -> bool:
    _say("The same under `forkproof run --policy observe`, which changes nothing and looks at each fork:\n")
    _until_it_hangs([*OBSERVE, ARTICLE], stage)
    _say("In 2015, on a Mac, it would have been getaddrinfo.")
    return True


def _lock(stage: Stage) -> bool:
    _say("With that import made first the program is safe here:")
    _tell(_run([IMPORTED]))
    _say(
        "On macOS and the BSDs it was not: CPython kept a lock around getaddrinfo, and the thread got the GIL back before it\n"
        "let go of it. The same lock here, with a name server that takes 20 ms, and the two engineers' printf:\n"
    )
    _until_it_hangs([*OBSERVE, *LOCK, "--trace-lookups", IMPORTED], stage)
    return True


def _mongoclient(stage: Stage) -> bool:
    if not _has_server():
        return True
    _say(
        "A MongoClient connects in the background. A program makes one, forks at once, and pings in the child."
    )
    with server.mongodb() as uri:
        _say("As it is:")
        _tell(_run([MONGOCLIENT, "unblocked"], {"MONGODB_URI": uri}, limit=60))
        _say(
            "With the lock, and a name server that takes 200 ms; PyMongo waits "
            + ("3 s here, 30 by default:" if stage.fast else "30 s for a server:")
        )
        _tell(_run([*OBSERVE, *SLOW_LOCK, MONGOCLIENT, "unblocked"], _limited(uri, stage), limit=60))
    return True


def _experiments(stage: Stage) -> bool:
    _say(
        "What ends the hang of the first program? `forkproof verify` runs it again and again, one thing changed:\n"
    )
    command = [
        sys.executable,
        "-m",
        "forkproof",
        "verify",
        "--runs",
        "4" if stage.fast else "8",
        str(ARTICLE),
    ]
    return subprocess.run(command, check=False).returncode in (0, 1)


def _cure(stage: Stage) -> bool:
    _say("The same programs under `forkproof run`. Each fork waits for a moment at which nothing is held.")
    good = _play([*FORKPROOF, ARTICLE]) & _play([*FORKPROOF, *LOCK, IMPORTED])
    if _has_server():
        with server.mongodb() as uri:
            good &= _play([*FORKPROOF, *SLOW_LOCK, MONGOCLIENT, "unblocked"], _limited(uri, stage))
    return good


def _play(arguments: Sequence[str | Path], env: Mapping[str, str] | None = None) -> bool:
    _say(f"\n$ {_shown(arguments)}")
    return _tell(_run(arguments, env, limit=60))


ACTS = (
    ("A program of twelve lines hangs", _first),
    ("Who held what", _who),
    ("The getaddrinfo lock of 2015", _lock),
    ("The MongoClient's thirty seconds", _mongoclient),
    ("The experiments", _experiments),
    ("The same programs under Forkproof", _cure),
)


def _has_server() -> bool:
    lacking = server.lacking()
    if lacking:
        _say(f"(Left out: the MongoClient {lacking}.)")
    return not lacking


def _limited(uri: str, stage: Stage) -> dict[str, str]:
    """The environment for a program that may run into PyMongo's time-out."""
    soon = ("&" if "?" in uri else "?") + "serverSelectionTimeoutMS=3000" if stage.fast else ""
    return {"MONGODB_URI": uri + soon}


def _say(text: str) -> None:
    print(text, flush=True)


def _shown(arguments: Sequence[str | Path]) -> str:
    words = [each.name if isinstance(each, Path) else each for each in arguments if each != "-m"]
    return " ".join(words)


def _until_it_hangs(arguments: Sequence[str | Path], stage: Stage) -> None:
    """Where the thread stands when the program forks is chance."""
    for again in range(stage.tries):
        if again:
            _say("The thread was quick this time, by chance. Once more:\n")
        if not _tell(_run(arguments)):
            return


def _tell(ended: tuple[int | None, float]) -> bool:
    status, seconds = ended
    if status is None:
        _say(f"=> It hung, and was killed after {seconds:.0f} s.")
    elif status:
        _say(f"=> It failed after {seconds:.2f} s, with status {status}.")
    else:
        _say(f"=> It finished in {seconds:.2f} s.")
    return status == 0


def _run(
    arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, limit: float = LIMIT
) -> tuple[int | None, float]:
    """Its exit status, None if it had to be killed, with its children, at the limit; and the seconds it took."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **(env or {})},
        stderr=subprocess.STDOUT,  # in the order in which it comes
        start_new_session=True,
    )
    try:
        status: int | None = process.wait(limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        status = None
    except KeyboardInterrupt:
        _kill(process)
        raise
    return status, time.monotonic() - began


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End all of the process's session: politely, so that it may close its report, then for certain."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
    finally:
        with suppress(ProcessLookupError):  # all of them may be gone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
