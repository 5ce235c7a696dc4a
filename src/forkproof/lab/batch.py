"""Some runs of a hunt in a process of their own: `python -m forkproof.lab.batch`, for a worker of `fleet.py`.

A worker has threads, and a run must not be started from such a process. Reads one JSON object (the plan, the numbers of the
runs, and the process that asks), writes one a run, and ends with all that it started when that process does.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from forkproof.lab.hunt import Plan, here
from forkproof.lab.trial import die_with_parent


def main() -> None:
    asked = json.load(sys.stdin)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != asked["asks"]:
        return  # it has ended already
    for result in here(Plan.from_json(asked["plan"]), asked["numbers"], jobs=1):
        print(json.dumps(result.to_json()), flush=True)


if __name__ == "__main__":
    main()
