"""A child and its parent on one connection, bare and under Forkproof; the table of docs/reference/connections.md.

    python experiments/connections/run.py [--only TEXT] [--markdown]

Each program in programs/ connects, asks, forks, and asks in both processes. Bare: what the two got, where `hung` is one that has
not ended in LIMIT seconds (programs/both.py says the rest). Told: what `forkproof run` says of the child. Then once more,
with what the catalogue advises. What is not installed is skipped.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from servers import lacking, server

LIMIT = 30  # seconds
HERE = Path(__file__).parent / "programs"
ROWS = [
    ("psycopg", "postgresql", "psycopg_connection.py", "one connection"),
    ("psycopg2-binary", "postgresql", "psycopg2_connection.py", "one connection"),
    ("pg8000", "postgresql", "pg8000_connection.py", "one connection"),
    ("SQLAlchemy", "postgresql", "sqlalchemy_engine.py", "an engine that was used"),
    ("Django", "postgresql", "django_query.py", "a query before the fork"),
    ("redis", "redis", "redis_single.py", "single_connection_client=True"),
    ("pymongo", "mongodb", "pymongo_exhaust.py", "an exhaust cursor, begun"),
    ("pymongo", "mongodb", "pymongo_client.py", "a client that was used"),
    ("requests", "http", "requests_session.py", "a Session that was used"),
    ("urllib3", "http", "urllib3_pool.py", "a PoolManager that was used"),
    ("httpx", "http", "httpx_client.py", "a Client that was used"),
    ("", "http", "http_client.py", "one HTTPConnection"),
]


def run(command, folder):
    """Its output and errors, of all its processes: until it ends, or LIMIT."""
    with (
        open(f"{folder}/out", "w+") as out,
        open(f"{folder}/err", "w+") as err,
    ):  # who hangs would hold a pipe open
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # this program's own processes, in a session of their own
        process.wait()
        for file in (out, err):
            file.seek(0)
        return out.read(), err.read()


def bare(program, address, *more):
    """What parent and child got."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = run([HERE / program, address, *more], folder)
    return results(out, err)


def results(out, err):
    said = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    if not said and err:
        return ["did not run: " + err.splitlines()[-1], "-"]
    return [said.get(name, "hung") for name in ("parent", "child")]


def told(program, address):
    """What they got under `forkproof run`, the events about connections that it writes, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        events = f"{folder}/events.jsonl"
        options = ["--policy", "observe", "--events", events]
        out, report = run(["-m", "forkproof", "run", *options, HERE / program, address], folder)
        with open(events) as file:
            events = [e for e in map(json.loads, file) if e["event"] == "shared-connection"]
        return results(out, report), events, report


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--report", action="store_true", help="show what forkproof run says")
    asked = parser.parse_args()
    if asked.markdown:
        print(
            "| Library | From before the fork | Bare parent | Bare child | Told of the child | Both, with the remedy |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
    with contextlib.ExitStack() as servers:
        addresses = {}
        for distribution, kind, program, what in ROWS:
            if asked.only not in f"{distribution} {kind} {program}":
                continue
            try:
                version = importlib.metadata.version(distribution) if distribution else sys.version.split()[0]
            except importlib.metadata.PackageNotFoundError:
                print(f"{program}: {distribution} is not installed", file=sys.stderr)
                continue
            if lacking(kind):
                print(f"{program}: {lacking(kind)}", file=sys.stderr)
                continue
            if kind not in addresses:
                addresses[kind] = servers.enter_context(server(kind))
            got = bare(program, addresses[kind])
            (_, child), events, report = told(program, addresses[kind])
            if not events and child != "right":
                print(f"{program}: not told, and the child: {child}", file=sys.stderr)
            words = [
                f"{e['verdict']} by {e['proof']}: {e['operation']}, {e['connection']['library'] or 'no library'}"
                + (f" ({e['connection']['owner']})" if e["connection"]["owner"] else "")
                for e in events
            ]
            columns = [f"{distribution or 'CPython'} {version}", what, *got, "; ".join(words) or "-"]
            parent, child = bare(program, addresses[kind], "remedy")
            columns.append(parent if parent == child else f"{parent} / {child}")
            print("| " + " | ".join(columns) + " |" if asked.markdown else columns, flush=True)
            if asked.report:
                print(report)


if __name__ == "__main__":
    main()
