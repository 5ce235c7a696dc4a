"""Which ways of forking write twice what was in a buffer, and what `forkproof run` says of each; the table of docs/workers.md.

    python experiments/workers/doubled.py

Each program prints into a pipe, without a flush, and forks. How often that line came out at the end is counted.
"""

import json
import os
import subprocess
import sys
import tempfile

START = "import logging, logging.handlers, multiprocessing, os, subprocess, sys\n"
FORK = "pid = os.fork()\n"
WAIT = "if pid: os.waitpid(pid, 0)\n"
MEMORY = "log = logging.getLogger(); log.addHandler(logging.handlers.MemoryHandler(9, target=logging.StreamHandler(sys.stdout)))\n"

ROWS = [
    ("`os.fork()`, both end as usual", "print('line')\n" + FORK + WAIT),
    (
        "`os.fork()`, the child ends by `os._exit()`",
        "print('line')\n" + FORK + "if pid == 0: os._exit(0)\n" + WAIT,
    ),
    (
        "`os.fork()`, the parent ends by `os._exit()`, as a daemon's",
        "print('line')\n" + FORK + "if pid: os.waitpid(pid, 0); os._exit(0)\n",
    ),
    (
        "`os.fork()` and exec",
        "print('line')\n"
        + FORK
        + "if pid == 0: os.execv(sys.executable, [sys.executable, '-c', ''])\n"
        + WAIT,
    ),
    ("`subprocess.run()`", "print('line')\nsubprocess.run([sys.executable, '-c', ''])\n"),
    (
        "`multiprocessing.Process`, fork",
        "print('line')\np = multiprocessing.get_context('fork').Process(target=int); p.start(); p.join()\n",
    ),
    ("`os.fork()` after `print(flush=True)`", "print('line', flush=True)\n" + FORK + WAIT),
    (
        "`os.fork()` after a record of a StreamHandler",
        "logging.basicConfig(stream=sys.stdout, format='%(message)s'); logging.error('line')\n" + FORK + WAIT,
    ),
    ("`os.fork()` after a record of a MemoryHandler", MEMORY + "log.warning('line')\n" + FORK + WAIT),
]


def main() -> None:
    os.environ.pop("PYTHONUNBUFFERED", None)
    print("| The line before the fork, into a pipe | written | Told |\n| --- | --- | --- |")
    for name, code in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            events = os.path.join(folder, "events.jsonl")
            bare = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True)
            watched = [sys.executable, "-m", "forkproof", "run", "--events", events, "-c", START + code]
            subprocess.run(watched, capture_output=True)
            with open(events) as file:
                told = [
                    event["verdict"] for event in map(json.loads, file) if event["event"] == "doubled-output"
                ]
        times = {1: "once", 2: "twice"}.get(bare.stdout.count("line"), "?")
        print(f"| {name} | {times} | {', '.join(told) or '-'} |", flush=True)


if __name__ == "__main__":
    main()
