"""The table of docs/story/mongoclient.md: which design of a MongoClient is at risk when, seen by Forkproof.

    python experiments/mongoclient/table.py [RUNS]

needs the package with its extra `lab`, or MONGODB_URI. Each cell is RUNS runs (10), one after the other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from forkproof import lab
from forkproof.lab.server import mongodb

PROGRAM = Path(lab.__file__).parent / "programs" / "mongoclient.py"
LOCK = ("--emulate", "getaddrinfo-lock:100")
CONDITIONS = {
    "Linux": ("--policy", "observe"),
    "with the lock": ("--policy", "observe", *LOCK),
    "with the lock, policy wait": ("--policy", "wait", *LOCK),
}


def main(runs: int) -> None:
    print("| client | platform | forks at risk | held by another thread | children that pinged | median |")
    print("| --- | --- | --- | --- | --- | --- |")
    with mongodb() as uri:
        uri += ("&" if "?" in uri else "?") + "serverSelectionTimeoutMS=30000"
        for design in ("unblocked", "blocking", "lazy", "fork-first"):
            for condition, options in CONDITIONS.items():
                print(row(design, condition, options, uri, runs), flush=True)


def row(design: str, condition: str, options: tuple[str, ...], uri: str, runs: int) -> str:
    at_risk, pinged, times = 0, 0, []
    seen: Counter[str] = Counter()
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            events = Path(folder, "events")
            command = [sys.executable, "-m", "forkproof", "run", "--events", str(events), *options]
            ended = subprocess.run(
                [*command, PROGRAM, design],
                env={**os.environ, "MONGODB_URI": uri},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
            )
            forks = [e for e in map(json.loads, events.read_text().splitlines()) if e["event"] == "fork"]
        pinged += ended.returncode == 0
        (seconds,) = re.findall(r"child: .* after (\S+) s", ended.stdout)
        times.append(float(seconds))
        at_risk += any(fork["risk"] != "none" for fork in forks)
        seen.update({f"{h['what']} ({h['thread']['name']})" for fork in forks for h in fork["hazards"]})
    held = "; ".join(f"{what}: {n}" for what, n in seen.most_common()) or "nothing"
    median = sorted(times)[len(times) // 2]
    return f"| {design} | {condition} | {at_risk} of {runs} | {held} | {pinged} of {runs} | {median:.1f} s |"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
