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

from .others import TOOLS, ask_all

HERE = pathlib.Path(__file__).resolve().parent
CASES = HERE / "cases"
CHILD = 4.0  # seconds after which a child that is there hangs
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
    """`said`: the last line with CHILD in it; `seconds` of the whole program, without what others took to look at it; `warned`:
    CPython's own warning was printed; `answers`: what other tools printed of what hung, by their names."""

    said: str
    seconds: float
    events: list[Event] = field(default_factory=list)
    warned: bool = False
    answers: dict[str, str] = field(default_factory=dict)


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
    others: dict[str, list[str]]  # which of ANSWERS each other tool has of the hang


def cases(match: str = "*") -> Iterator[Case]:
    for path in sorted(CASES.glob("*/case.json")):
        facts = json.loads(path.read_text())
        if any(fnmatch.fnmatch(facts["name"], part) for part in match.split(",")):
            yield Case(facts["name"], path.parent, facts)


def environments(venvs: pathlib.Path, python: str, install: str | None, match: str = "*") -> Iterator[str]:
    """Makes the environments that are missing or of other requirements, and installs `install` (Forkproof's project) in each. Yields what is done."""
    wanted: dict[str, pathlib.Path] = {}
    for case in cases(match):
        name = case.facts["venv"]
        wanted.setdefault(name, SHARED.get(name, case.folder / "requirements.txt"))
    for name, requirements in wanted.items():
        place = venvs / name
        pip = [place / "bin" / "python", "-m", "pip", "-q", "install"]
        if not (place / "bin" / "python").exists():
            subprocess.run([python, "-m", "venv", place], check=True)
        installed, text = place / ".installed", requirements.read_text()
        if not installed.exists() or installed.read_text() != text:
            yield f"{name}: {requirements.relative_to(HERE)}"
            subprocess.run([*pip, "-r", requirements], check=True)
            installed.write_text(text)
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
    return {**{k: v for k, v in os.environ.items() if k not in hide}, "CORPUS_LIMIT": str(CHILD)}


def run_once(python: pathlib.Path, script: pathlib.Path, policy: str | None, limit: float) -> Run:
    """One run in at most `limit` seconds. Bare (no policy), what hangs is shown to the other tools before it is ended."""
    answers: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        events, out, err = (pathlib.Path(scratch, name) for name in ("events.jsonl", "out", "err"))
        command: list[str | pathlib.Path] = [python, "-W", "ignore"]
        env = _environment()
        asking = pathlib.Path(scratch, "asking")
        asking.mkdir()
        if policy is None:
            env["CORPUS_ASK"] = str(asking)
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
                env=env,
                start_new_session=True,
            )
            asked = 0.0

            def ask(pid: int) -> None:
                nonlocal asked
                at = time.monotonic()
                for name, text in ask_all(pid, asking).items():
                    answers[name] = answers.get(name, "") + text
                asked += time.monotonic() - at

            try:
                while process.poll() is None and time.monotonic() - began - asked < limit:
                    if (asking / "hung").exists():
                        ask(int((asking / "hung").read_text()))
                        (asking / "hung").unlink()  # it goes on
                    time.sleep(0.02)
                late = process.poll() is None
                if late and policy is None:
                    ask(process.pid)
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
            time.monotonic() - began - asked,
            list(_read(events)) if events.exists() else [],
            "use of fork() may lead to deadlocks" in err.read_text("utf-8", "replace"),
            answers,
        )


def _read(events: pathlib.Path) -> Iterator[Event]:
    for line in events.read_text("utf-8", "replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield {"event": "damaged", "line": line[:200]}


def _has(case: Case, thing: object) -> bool:
    """Whether one of the case's names is in it; not in the path of the case, which often has it."""
    text = json.dumps(thing).replace(case.name, "").lower()
    return any(name.lower() in text for name in case.facts.get("names", []))


# What a tool's output can have of the truth: the program's own lines, in the stack of the child; one of the case's names, by
# the rule for Forkproof's events; the name of a thread that held it or was relied on (`holders`).
ANSWERS: dict[str, Callable[[Case, str, set[str]], bool]] = {
    "where": lambda case, text, holders: "repro.py" in text,
    "what": lambda case, text, holders: _has(case, text),
    "who": lambda case, text, holders: any(name in text for name in holders),
}


def judge(case: Case, bare: Run, observe: Run, wait: Run) -> Row:
    forks = [e for e in observe.events if e["event"] == "fork"]
    hangs = [e for e in observe.events if e["event"] == "hang"]
    culprits = [hazard for fork in forks for hazard in fork["hazards"] if _has(case, hazard)]
    # A child's only thread is its main one, whatever it was before.
    holders = {hazard["thread"]["name"] for hazard in culprits if hazard["thread"]} - {"MainThread", ""}
    both = observe.events + wait.events
    return Row(
        case=case.name,
        kind=case.facts["kind"],
        expect=case.facts["expect"],
        bare=bare.said,
        observe=observe.said,
        wait=wait.said,
        named=bool(culprits),
        explained=any(e["verdict"] in ("proven", "likely") and _has(case, e) for e in hangs),
        prevented=wait.said == "CHILD ok",
        alarm=any(e["event"] == "hang" or (e["event"] == "fork" and e["risk"] != "none") for e in both),
        alarm_ok=case.facts.get("alarm_ok", False),
        waited_ms=max((e["waited_ms"] for e in wait.events if e["event"] == "fork"), default=0.0),
        warned=bare.warned,
        others={
            tool: [word for word, is_in in ANSWERS.items() if is_in(case, text, holders)]
            for tool, text in bare.answers.items()
        },
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

    def others() -> Iterator[tuple[str, str]]:
        for tool in TOOLS:
            asked = [row for row in hung if tool.name in row.others]
            if asked:
                words = (f"{word} {sum(word in row.others[tool.name] for row in asked)}" for word in ANSWERS)
                yield tool.name, ", ".join(words) + f" of {len(asked)}"

    return {
        "hang bare": share(hung, [row for row in rows if row.expect == "hang"]),
        "named at the fork": share([row for row in hung if row.named], hung),
        "explained at the hang": share([row for row in hung if row.explained], hung),
        "prevented": share([row for row in hung if row.prevented], hung),
        "false alarms in controls": share([row for row in safe if row.alarm], safe),
        "controls that do not finish": share([row for row in safe if not row.prevented], safe),
        "CPython warns": f"at {share([row for row in hung if row.warned], hung)} that hang, {share([row for row in safe if row.warned], safe)} controls",
        **dict(others()),
    }


def as_json(rows: list[Row]) -> str:
    return json.dumps({"summary": summary(rows), "rows": [asdict(row) for row in rows]}, indent=1)
