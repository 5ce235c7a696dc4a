#!/usr/bin/env python3
"""Run real programs that fork with threads: bare, and under forkproof; print what came out.

    forkbench.py setup --venvs DIR --python python3.11 --install PROJECT   # libraries of all cases, and forkproof
    forkbench.py run   --venvs DIR [--match GLOB] [--cases DIR] [--runs N] [--json FILE]

A case is a folder with `repro.py` (prints `CHILD ok` or `CHILD hung`; exit status 0 or 3) and `case.json`:
`expect` is hang or safe, `kind` the class, `venv` the environment it runs in, `names` the strings of which a report
must contain one to have named the culprit, `alarm_ok` true for a control at which a report is the truth.
Columns: bare; observe: named in a fork event, explained by a hang event; wait: ok or hung; alarm (controls only).
Standard library only. Needs a C compiler and the package index for `setup`.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent


def cases(folder, match):
    for path in sorted(pathlib.Path(folder).glob("*/case.json")):
        case = json.loads(path.read_text())
        if fnmatch.fnmatch(case["name"], match):
            yield path.parent, case


def setup(args):
    wanted = {}
    for folder, case in cases(args.cases, "*"):
        own = folder / "requirements.txt"
        shared = case["venv"] == "venv"
        wanted.setdefault(case["venv"], HERE / "requirements.txt" if shared else own)
    for name, requirements in wanted.items():
        place = pathlib.Path(args.venvs) / name
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([args.python, "-m", "venv", place], check=True)
        print(f"{name}: installing {requirements}", flush=True)
        if not (place / ".installed").exists():
            subprocess.run([python, "-m", "pip", "-q", "install", "-r", requirements], check=True)
            (place / ".installed").touch()
        if args.install:
            subprocess.run(
                [python, "-m", "pip", "-q", "install", "--force-reinstall", "--no-deps", args.install],
                check=True,
            )
            subprocess.run([python, "-m", "pip", "-q", "install", args.install], check=True)


def environment():
    """Without what hides hangs: PYTHONUNBUFFERED takes the standard streams' locks away."""
    hide = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS")
    return {**{k: v for k, v in os.environ.items() if k not in hide}, "CORPUS_LIMIT": "4"}


def run_once(python, script, prefix, limit):
    """-> (last CHILD line, seconds, events)"""
    with tempfile.TemporaryDirectory() as scratch:
        events = pathlib.Path(scratch, "events.jsonl")
        command = [python, "-W", "ignore", *[p.replace("@EVENTS", str(events)) for p in prefix], str(script)]
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=scratch,
            start_new_session=True,
            env=environment(),
        )
        try:
            out, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            out = b"CHILD hung (whole program)"
        finally:
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()
        lines = [line for line in out.decode("utf-8", "replace").splitlines() if "CHILD" in line]
        seen = []
        if events.exists():
            for line in events.read_text("utf-8", "replace").splitlines():
                try:
                    seen.append(json.loads(line))
                except ValueError:
                    seen.append({"event": "damaged", "line": line[:200]})
        return (
            (lines[-1][lines[-1].index("CHILD") :].strip() if lines else "nothing"),
            time.monotonic() - start,
            seen,
        )


def has(names, thing):
    text = json.dumps(thing).lower()
    return any(name.lower() in text for name in names)


def judge(case, observed, waited):
    forks = [e for e in observed if e.get("event") == "fork"]
    hangs = [e for e in observed if e.get("event") == "hang"]
    names = case.get("names", [])
    return {
        "named": any(has(names, h) for f in forks for h in f.get("hazards", [])),
        "explained": any(e.get("verdict") in ("proven", "likely") and has(names, e) for e in hangs),
        "alarm": any(
            f.get("risk", "none") != "none" for f in forks + [e for e in waited if e.get("event") == "fork"]
        )
        or bool(hangs)
        or any(e.get("event") == "hang" for e in waited),
        "damaged": sum(e.get("event") == "damaged" for e in observed + waited),
    }


def run(args):
    rows = []
    base = ["-m", "forkproof", "run", "--events", "@EVENTS", "--hang-after", "1.5", "--policy"]
    for folder, case in cases(args.cases, args.match):
        python = str(pathlib.Path(args.venvs, case["venv"], "bin", "python"))
        script = folder / "repro.py"
        for _ in range(args.runs):
            bare, bare_s, _ = run_once(python, script, [], args.limit)
            observe, _, observed = run_once(python, script, [*base, "observe"], args.limit)
            wait, wait_s, waited = run_once(python, script, [*base, "wait"], args.limit)
            row = {
                "case": case["name"],
                "expect": case["expect"],
                "kind": case.get("kind"),
                "bare": bare,
                "observe": observe,
                "wait": wait,
                "bare_s": round(bare_s, 1),
                "wait_s": round(wait_s, 1),
                "alarm_ok": case.get("alarm_ok", False),
                **judge(case, observed, waited),
            }
            rows.append(row)
            mark = lambda value: "yes" if value else "-"
            print(
                f"{row['case']:42} {row['kind']:17} bare {bare[:12]:12} named {mark(row['named']):3} explained {mark(row['explained']):3} "
                f"wait {wait[:12]:12} {row['wait_s']:5.1f}s alarm {mark(row['alarm'])}",
                flush=True,
            )
    hang = [r for r in rows if r["expect"] == "hang" and "hung" in r["bare"]]
    safe = [r for r in rows if r["expect"] == "safe" and not r["alarm_ok"]]
    share = lambda part, whole: f"{sum(part)} of {len(whole)}"
    print("\nof the programs that hung bare:")
    for kind in sorted({r["kind"] for r in hang}):
        these = [r for r in hang if r["kind"] == kind]
        print(
            f"  {kind:18} named {share([r['named'] for r in these], these)}, explained {share([r['explained'] for r in these], these)}, "
            f"prevented {share([r['wait'] == 'CHILD ok' for r in these], these)}"
        )
    print(
        f"  {'all':18} named {share([r['named'] for r in hang], hang)}, explained {share([r['explained'] for r in hang], hang)}, "
        f"prevented {share([r['wait'] == 'CHILD ok' for r in hang], hang)}"
    )
    print(
        f"controls: false alarms {share([r['alarm'] for r in safe], safe)}, broken {share([r['wait'] != 'CHILD ok' for r in safe], safe)}"
    )
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
for name, function in (("setup", setup), ("run", run)):
    command = commands.add_parser(name)
    command.set_defaults(function=function)
    command.add_argument("--venvs", required=True)
    command.add_argument("--cases", default=HERE / "cases")
    if name == "setup":
        command.add_argument("--python", default="python3.11")
        command.add_argument("--install", help="the project to install into each environment")
    else:
        command.add_argument("--match", default="*")
        command.add_argument("--runs", type=int, default=1)
        command.add_argument("--limit", type=float, default=60, help="seconds for one whole program")
        command.add_argument("--json")
arguments = parser.parse_args()
arguments.function(arguments)
