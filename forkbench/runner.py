"""Real programs that fork with threads, run bare and under Forkproof: what is made of them, without any library.

A case is a folder with `repro.py` (its last line is `CHILD ok` or `CHILD hung`; exit status 0 or 3), its pinned requirements and
`case.json`: `expect` is hang or safe, `kind` the class, `venv` the environment it runs in, `names` the strings of which a hazard
must contain one to have named the culprit, `alarm_ok` true for a control at which a report is the truth.
"""

from __future__ import annotations

import fnmatch
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
CASES = HERE / "cases"
SHARED = {"venv": HERE / "requirements.txt", "more": HERE / "requirements-more.txt"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    folder: pathlib.Path
    facts: dict[str, Any]

    @property
    def hangs(self) -> bool:
        return self.facts["expect"] == "hang"


@dataclass(frozen=True)
class Run:
    """`said`: the last line with CHILD in it; `seconds` of the whole program; `warned`: CPython's own warning was printed."""

    said: str
    seconds: float
    events: list[Event] = field(default_factory=list)
    warned: bool = False


@dataclass(frozen=True)
class Row:
    case: str
    kind: str
    expect: str
    bare: str
    observe: str
    wait: str
    named: bool  # observe: a hazard of a fork names the culprit
    explained: bool  # observe: a hang event does, and its verdict is proven or likely
    prevented: bool  # wait: the program finished
    alarm: bool  # a fork was at risk, or a hang was reported
    alarm_ok: bool
    waited_ms: float  # the longest wait of any fork
    warned: bool  # CPython says that the process has threads, at the first fork


def cases(match: str = "*") -> Iterator[Case]:
    for path in sorted(CASES.glob("*/case.json")):
        facts = json.loads(path.read_text())
        if any(fnmatch.fnmatch(facts["name"], part) for part in match.split(",")):
            yield Case(facts["name"], path.parent, facts)


def environments(venvs: pathlib.Path, python: str, install: str | None, match: str = "*") -> Iterator[str]:
    """Makes the environments that are missing, and installs `install` (Forkproof's project) in each. Yields what is done."""
    wanted: dict[str, pathlib.Path] = {}
    for case in cases(match):
        name = case.facts["venv"]
        wanted.setdefault(name, SHARED.get(name, case.folder / "requirements.txt"))
    for name, requirements in wanted.items():
        place = venvs / name
        pip = [place / "bin" / "python", "-m", "pip", "-q", "install"]
        if not (place / "bin" / "python").exists():
            subprocess.run([python, "-m", "venv", place], check=True)
        if not (place / ".installed").exists():
            yield f"{name}: {requirements.relative_to(HERE)}"
            subprocess.run([*pip, "-r", requirements], check=True)
            (place / ".installed").touch()
        if install:
            yield f"{name}: forkproof"
            subprocess.run([*pip, "--force-reinstall", "--no-deps", install], check=True)
            subprocess.run([*pip, f"{install}[cli]"], check=True)


def version(venvs: pathlib.Path) -> str:
    """Of the interpreter that the environments have."""
    python = next(iter(sorted(venvs.glob("*/bin/python"))))
    code = "import platform as p; print(p.python_implementation(), p.python_version())"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _environment() -> dict[str, str]:
    """Without what hides hangs: PYTHONUNBUFFERED takes the standard streams' locks away."""
    hide = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS")
    return {**{k: v for k, v in os.environ.items() if k not in hide}, "CORPUS_LIMIT": "4"}


def run_once(python: pathlib.Path, script: pathlib.Path, policy: str | None, limit: float) -> Run:
    with tempfile.TemporaryDirectory() as scratch:
        events, out, err = (pathlib.Path(scratch, name) for name in ("events.jsonl", "out", "err"))
        command: list[str | pathlib.Path] = [python, "-W", "ignore"]
        if policy is None:
            command = [python, "-W", "ignore", "-W", "once:This process:DeprecationWarning"]
        else:
            command += [
                "-m",
                "forkproof",
                "run",
                "--events",
                events,
                "--hang-after",
                "1.5",
                "--policy",
                policy,
            ]
        began = time.monotonic()
        # Files, not pipes: a process that is left behind would hold a pipe open.
        with out.open("wb") as told, err.open("wb") as complained:
            process = subprocess.Popen(
                [*command, script],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=complained,
                cwd=scratch,
                env=_environment(),
                start_new_session=True,
            )
            try:
                process.wait(limit)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                try:
                    os.killpg(process.pid, 9)
                except ProcessLookupError:
                    pass
                process.wait()
        lines = [line for line in out.read_text("utf-8", "replace").splitlines() if "CHILD" in line]
        said = lines[-1][lines[-1].index("CHILD") :].strip() if lines else "nothing"
        return Run(
            "CHILD hung (whole program)" if late else said,
            time.monotonic() - began,
            list(_read(events)) if events.exists() else [],
            "use of fork() may lead to deadlocks" in err.read_text("utf-8", "replace"),
        )


def _read(events: pathlib.Path) -> Iterator[Event]:
    for line in events.read_text("utf-8", "replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield {"event": "damaged", "line": line[:200]}


def _has(names: list[str], thing: object) -> bool:
    text = json.dumps(thing).lower()
    return any(name.lower() in text for name in names)


def judge(case: Case, bare: Run, observe: Run, wait: Run) -> Row:
    names = case.facts.get("names", [])
    forks = [e for e in observe.events if e["event"] == "fork"]
    hangs = [e for e in observe.events if e["event"] == "hang"]
    both = observe.events + wait.events
    return Row(
        case=case.name,
        kind=case.facts["kind"],
        expect=case.facts["expect"],
        bare=bare.said,
        observe=observe.said,
        wait=wait.said,
        named=any(_has(names, hazard) for fork in forks for hazard in fork["hazards"]),
        explained=any(e["verdict"] in ("proven", "likely") and _has(names, e) for e in hangs),
        prevented=wait.said == "CHILD ok",
        alarm=any(e["event"] == "hang" or (e["event"] == "fork" and e["risk"] != "none") for e in both),
        alarm_ok=case.facts.get("alarm_ok", False),
        waited_ms=max((e["waited_ms"] for e in wait.events if e["event"] == "fork"), default=0.0),
        warned=bare.warned,
    )


def run_case(case: Case, venvs: pathlib.Path, limit: float, say: Callable[[str], object]) -> Row:
    python = venvs / case.facts["venv"] / "bin" / "python"
    runs = []
    for policy in (None, "observe", "wait"):
        say(f"{case.name} {policy or 'bare'}")
        runs.append(run_once(python, case.folder / "repro.py", policy, limit))
    return judge(case, *runs)


def summary(rows: list[Row]) -> dict[str, str]:
    """The figures that count, in words."""
    hung = [row for row in rows if row.expect == "hang" and "hung" in row.bare]
    safe = [row for row in rows if row.expect == "safe" and not row.alarm_ok]

    def share(part: list[Row], whole: list[Row]) -> str:
        return f"{len(part)} of {len(whole)}"

    return {
        "hang bare": share(hung, [row for row in rows if row.expect == "hang"]),
        "named at the fork": share([row for row in hung if row.named], hung),
        "explained at the hang": share([row for row in hung if row.explained], hung),
        "prevented": share([row for row in hung if row.prevented], hung),
        "false alarms in controls": share([row for row in safe if row.alarm], safe),
        "controls that do not finish": share([row for row in safe if not row.prevented], safe),
    }


def as_json(rows: list[Row]) -> str:
    return json.dumps({"summary": summary(rows), "rows": [asdict(row) for row in rows]}, indent=1)
