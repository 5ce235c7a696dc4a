"""Rows of experiments: a child of a fork asks for what threads did in the parent, and whether it gets it.

Each row is a program of its own: it starts the threads, checks that they do their work in the parent, forks, and asks the
child for the same. `ok`: it was done; `lost`: the call came back and it was not done; `hung`: it did not end within LIMIT;
`signal 11`: that ended it. "Told" is what Forkproof lists at the fork under policy `observe`; the last column is the child under
policy `wait`. A row whose library is not there is skipped. experiments/pools uses this too.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

LIMIT = 6.0

PROGRAM = """
import json, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
EVENTS, POLICY = sys.argv[1:]

def thread(function, *args):
    t = threading.Thread(target=function, args=args, daemon=True)
    t.start()
    return t

def until(done, limit=3.0):
    "Whether it came about."
    end = time.monotonic() + limit
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True

async def answer():
    "What work() answers, which may be a coroutine function."
    got = work()
    return await got if hasattr(got, "__await__") else got

def run(main):
    "Replaced by a row that is to fork inside a loop."
    try:
        main().send(None)
    except StopIteration:
        pass

async def main():
    if POLICY:
        import forkproof
        forkproof.install(POLICY, events=EVENTS, warn=False)
    assert await answer(), "it does not work in the parent"
    time.sleep(0.2)
    threads = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
    known = {t.native_id for t in threading.enumerate()}
    native = [open(f"/proc/self/task/{i}/comm").read().strip() for i in os.listdir("/proc/self/task") if int(i) not in known]
    threads += [f"{native.count(name)} native {name}" for name in sorted(set(native))]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if await answer() else 3
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\\n".encode())
            status = 4
        os._exit(status)
    end = time.monotonic() + LIMIT
    status = None
    while time.monotonic() < end and status is None:
        done, how = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(how) if done else None
        time.sleep(0.01)
    if status is None:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    other = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
    word = {None: "hung", 0: "ok", 3: "lost", 4: "error"}.get(status, other)
    print(json.dumps({"child": word, "threads": threads}), flush=True)
    os._exit(0)
"""


def run(code, policy):
    with tempfile.TemporaryDirectory() as folder:
        events = os.path.join(folder, "events.jsonl")
        text = PROGRAM.replace("LIMIT", str(LIMIT)) + code + "\nrun(main)\n"
        out, err = os.path.join(folder, "out"), os.path.join(folder, "err")
        with (
            open(out, "w") as stdout,
            open(err, "w") as stderr,
        ):  # files: workers of a pool would hold a pipe open
            process = subprocess.Popen(
                [sys.executable, "-c", text, events, policy],
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)  # this row's own processes, in a session of their own
            except ProcessLookupError:
                pass
            process.wait()
        with open(out) as stdout, open(err) as stderr:
            lines, errors = stdout.read().splitlines(), stderr.read().strip()
        told = []
        if policy and os.path.exists(events):
            with open(events) as file:
                forks = [line for line in map(json.loads, file) if line["event"] == "fork"]
            told = [hazard["what"] for fork in forks for hazard in fork["hazards"]]
        if not lines:
            return {"child": "did not run: " + (errors.splitlines() or ["?"])[-1], "threads": []}, told
        return {**json.loads(lines[-1]), "error": errors[-200:]}, told


def row(entry):
    distribution, name, code = entry
    try:
        version = (
            importlib.metadata.version(distribution) if distribution else "%d.%d.%d" % sys.version_info[:3]
        )
    except importlib.metadata.PackageNotFoundError:
        return None
    bare, _ = run(code, "")
    _, told = run(code, "observe")
    wait, _ = run(code, "wait")
    library = f"{distribution or 'CPython'} {version}"
    columns = [
        library,
        ", ".join(bare["threads"]),
        name,
        bare["child"],
        "; ".join(told) or "-",
        wait["child"],
    ]
    return columns, bare.get("error", "")


def main(entries, description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args()
    if asked.markdown:
        print(
            "| Library | Threads | What the child asks | Bare child | Told | Under `wait` |\n| --- | --- | --- | --- | --- | --- |"
        )
    rows = [entry for entry in entries if asked.only in f"{entry[0]} {entry[1]}"]
    with ThreadPoolExecutor(4) as pool:
        for entry, answer in zip(rows, pool.map(row, rows), strict=True):
            if answer is None:
                print(f"{entry[0]}: not installed", file=sys.stderr)
                continue
            columns, error = answer
            print("| " + " | ".join(columns) + " |" if asked.markdown else columns, flush=True)
            if error:
                print("   ", error.replace("\n", " "), file=sys.stderr)
