"""The smallest program that hangs, three times: bare, observed, and with its fork made safe.

Every run is a real one: nothing here knows how it will end, and what is said at the end is what was seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "article.py"
LIMIT = 3.0


def demo(tries: int = 10) -> int:
    """Tell the story on stdout; 0 if the last run finished, as it should."""
    _say(f"This program looks up a name in a thread, forks, and looks one up in the child ({PROGRAM}):\n")
    print("".join(f"    {line}\n" for line in PROGRAM.read_text().splitlines()))
    _say(f"1. As it is, with {LIMIT:g} seconds to finish.")
    _tell_until_it_hangs([], tries)
    _say("2. Under `forkproof run --policy observe`: nothing is changed, but each fork is looked at.")
    _tell_until_it_hangs(["-m", "forkproof", "run", "--policy", "observe"], tries)
    _say("3. Under `forkproof run`: each fork waits for a moment at which no other thread holds anything.")
    finished = _run(["-m", "forkproof", "run"])
    _tell(finished)
    return 0 if finished is not None else 1


def _say(text: str) -> None:
    print(text, flush=True)


def _tell_until_it_hangs(prefix: Sequence[str], tries: int) -> None:
    """Where the thread stands when the program forks is chance. Most often it stands in the import."""
    for again in range(tries):
        if again:
            _say("   The thread was quick this time, by chance. Once more.\n")
        seconds = _run(prefix)
        _tell(seconds)
        if seconds is None:
            return


def _tell(seconds: float | None) -> None:
    if seconds is None:
        _say(f"   => It hung, and was killed after {LIMIT:g} s.\n")
    else:
        _say(f"   => It finished in {seconds:.2f} s.\n")


def _run(prefix: Sequence[str]) -> float | None:
    """How many seconds the program took; None if it had to be killed, with its children, at the limit."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *prefix, str(PROGRAM)], start_new_session=True)
    try:
        process.wait(LIMIT)
        return time.monotonic() - began
    except subprocess.TimeoutExpired:
        _kill(process)
        return None
    except KeyboardInterrupt:
        _kill(process)
        raise


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
