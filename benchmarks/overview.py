"""`forkproof report --overview` of many events: processor time, time on the clock and peak memory.

    python benchmarks/overview.py [--lines N] [--folder FOLDER] [--runs N]

Run it in an environment with `forkproof[cli,duckdb]`. The events are those of eight hosts with six programs in thirty days, as
docs/events.md has them: each fork with the line of its child, a tenth of the forks with a hazard that they waited for, every hundredth
of those at risk after all, and a hang for every tenth of these; one host's file is packed. They need 250 bytes a line in FOLDER while
this runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HOSTS = 8
PROGRAMS = ("gunicorn", "celery", "rqworker", "etl.py", "train.py", "report.py")
LOCKS = [
    f"{name} of app.{module}"
    for module in ("metrics", "cache", "pool", "store")
    for name in ("lock", "_lock")
]
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="for the files (a temporary one)")
    parser.add_argument("--runs", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forkproof-overview-", dir=asked.folder) as folder:
        lines = sum(_host(Path(folder), host, asked.lines // HOSTS) for host in range(HOSTS))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"{lines} lines of {HOSTS} hosts, {size / 1e9:.2f} GB; {os.cpu_count()} processors\n")
        print("| run | on the clock, s | processor, s | system, s | peak memory, MB |")
        print("| --- | --------------- | ------------ | --------- | --------------- |")
        for run in range(asked.runs):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.monotonic()
            command = [sys.executable, "-m", "forkproof", "report", "--overview", "--json", folder]
            told = subprocess.run(command, capture_output=True, check=True)
            clock = time.monotonic() - began
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            totals = json.loads(told.stdout)["totals"]
            assert totals["hosts"] == HOSTS, totals
            user, system = used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
            print(
                f"| {run + 1:3} | {clock:15.1f} | {user:12.1f} | {system:9.1f} | {used.ru_maxrss / 1024:15.0f} |",
                flush=True,
            )


def _host(folder: Path, host: int, lines: int) -> int:
    """Write one host's file; how many lines it has."""
    path = folder / f"host{host}.jsonl"
    written = 0
    with gzip.open(f"{path}.gz", "wt", compresslevel=3) if host == 0 else path.open("w") as file:
        block: list[str] = []
        for line in _lines(host, lines):
            block.append(line)
            if len(block) == 10_000:
                written += file.write("".join(block)) and len(block)
                block.clear()
        written += file.write("".join(block)) and len(block)
    return written


def _lines(host: int, lines: int) -> Iterator[str]:
    chance = random.Random(host)
    origin = [f'"host":"web{host}","program":"{program}"}}\n' for program in PROGRAMS]
    hazards = [_encoded(_hazard(lock)) for lock in LOCKS]
    step = timedelta(days=30) / (lines / 2)
    number = forks = 0
    while number < lines:
        forks += 1
        at = (BEGAN + forks * step).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        which, pid, child = forks % len(PROGRAMS), 1000 + forks % 50 * 7, 10_000 + forks % 4_000_000
        head = f'{{"v":1,"event":"fork","time":"{at}","pid":{pid},"child":null,"fork":{forks}'
        where = (
            f'"where":{{"file":"/srv/app/{which}/arbiter.py","line":{600 + which},"function":"spawn_worker"}}'
        )
        origin_of = origin[which]
        risky = forks % 1000 == 0
        if forks % 10:
            rest = '"waited_ms":0.0,"polls":1,"repaired":[],"hazards":[],"policy":"wait","outcome":"clear"'
        else:
            hazard = hazards[forks // 10 % len(hazards)]
            if not risky:
                hazard = hazard.replace('"cleared":false', '"cleared":true')
            rest = (
                f'"waited_ms":{chance.expovariate(1 / 9):.3f},"polls":{chance.randrange(2, 40)},"repaired":[],'
                f'"hazards":[{hazard}],"policy":"wait","outcome":"{"gave-up" if risky else "waited"}"'
            )
        yield f'{head},"risk":"{"certain" if risky else "none"}",{where},{rest},{origin_of}'
        yield f'{{"v":1,"event":"born","time":"{at}","pid":{child},"parent":{pid},"fork":{forks}}}\n'
        number += 2
        if forks % 10_000 == 0:
            hazard = hazards[forks // 10 % len(hazards)]
            lock = LOCKS[forks // 10 % len(LOCKS)]
            yield (
                f'{{"v":1,"event":"hang","time":"{at}","pid":{child},"parent":{pid},"fork":{forks},"seconds":5.0,'
                f'"thread":{{"name":"MainThread","ident":1398,"native_id":{child}}},"waits_for":{{"kind":"held-lock",'
                f'"what":"{lock}","stack":[]}},"verdict":"proven","proof":"record","hazard":{hazard},"advice":"",{origin_of}'
            )
            number += 1


def _hazard(lock: str) -> dict[str, Any]:
    frames = [
        {"file": f"/srv/app/metrics{depth}.py", "line": 40 + depth, "function": "push"} for depth in range(6)
    ]
    return {
        "kind": "held-lock",
        "certainty": "certain",
        "cleared": False,
        "what": lock,
        "thread": {"name": "metrics", "ident": 139872, "native_id": 4244},
        "stack": frames,
        "advice": "fork before the thread that has it is started, or while it does not have it",
        "state": "holds",
    }


def _encoded(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
