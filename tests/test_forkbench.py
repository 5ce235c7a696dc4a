"""ForkBench's runner: a program that hangs is shown to the other tools, and what they print is judged by the rule for events."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from forkbench import __main__ as command
from forkbench import runner
from forkbench.others import TOOLS
from forkbench.runner import ANSWERS, Case, Run, judge, run_once, summary

COMMON = Path(__file__).resolve().parent.parent / "forkbench" / "common"
HUNG = """
import sys
sys.path.insert(0, {common!r})
from harness import *

lock = threading.Lock()
lock.acquire()

def waits_here():
    lock.acquire()

run_child({child})
"""
FACTS = {
    "name": "held",
    "kind": "held-python-lock",
    "expect": "hang",
    "venv": "venv",
    "names": ["cache._lock"],
}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(runner, "CHILD", 1.0)


def program(folder: Path, child: str) -> Path:
    file = folder / "repro.py"
    file.write_text(HUNG.format(common=str(COMMON), child=child))
    return file


def fork(what: str, thread: str) -> dict[str, object]:
    hazard = {"what": what, "thread": {"name": thread}, "stack": []}
    return {"event": "fork", "risk": "certain", "waited_ms": 0.0, "hazards": [hazard]}


def judged(text: str, *, what: str = "cache._lock", thread: str = "Flusher-1") -> dict[str, list[str]]:
    case = Case("held", Path("/cases/held"), FACTS)
    bare = Run("CHILD hung", 1.0, answers={"a tool": text})
    return judge(case, bare, Run("CHILD hung", 1.0, [fork(what, thread)]), Run("CHILD ok", 1.0)).others


@pytest.mark.parametrize("forks", ["waits_here", "lambda: os.waitpid(os.fork() or (waits_here(), 0)[1], 0)"])
def test_the_tools_are_asked_about_the_child_that_hangs_and_its_children(tmp_path, forks):
    run = run_once(Path(sys.executable), program(tmp_path, forks), None, 60)
    assert run.said == "CHILD hung"
    assert "waits_here" in run.answers["faulthandler"]
    assert "waits_here" in run.answers["pystack"]


def test_nobody_is_asked_where_nothing_hangs(tmp_path):
    run = run_once(Path(sys.executable), program(tmp_path, "int"), None, 60)
    assert (run.said, run.answers) == ("CHILD ok", {})


def test_a_program_that_hangs_as_a_whole_is_shown_before_it_is_ended(tmp_path):
    file = program(tmp_path, "int")
    file.write_text(file.read_text().replace("run_child(", "waits_here(); run_child("))
    run = run_once(Path(sys.executable), file, None, 3)
    assert run.said == "CHILD hung (whole program)"
    assert "waits_here" in run.answers["faulthandler"]


def test_a_process_that_would_die_of_the_signal_is_left_alone(tmp_path):
    """What it has exec'd has no faulthandler."""
    child = "lambda: __import__('subprocess').run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    run = run_once(Path(sys.executable), program(tmp_path, child), None, 60)
    assert run.said == "CHILD hung"
    assert "subprocess.py" in run.answers["faulthandler"]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("", []),
        ("File /cases/held/repro.py, line 9 in child", ["where"]),
        ("in acquire of Cache._lock", ["what"]),
        ("thread 0x7f1 (Flusher-1)", ["who"]),
        ("File repro.py: with cache._lock, that Flusher-1 holds", ["where", "what", "who"]),
    ],
)
def test_what_a_tool_says_of_the_truth(text, answers):
    assert judged(text) == {"a tool": answers}


def test_the_name_of_the_case_in_a_path_is_no_answer():
    case = Case("held", Path("/cases/held"), {**FACTS, "names": ["held"]})
    bare = Run("CHILD hung", 1.0, answers={"a tool": "/cases/held/repro.py"})
    assert judge(case, bare, Run("", 0), Run("", 0)).others == {"a tool": ["where"]}


@pytest.mark.parametrize("hazard", [{"what": "another lock"}, {"thread": "MainThread"}])
def test_who_is_a_thread_that_holds_the_culprit_and_that_the_child_cannot_have(hazard):
    assert judged("MainThread, Flusher-1", **hazard) == {"a tool": []}


def test_the_page_has_a_column_and_a_figure_for_each_tool(tmp_path):
    case = Case("held", tmp_path, FACTS)
    names = [tool.name for tool in TOOLS]
    bare = Run("CHILD hung", 1.0, warned=True, answers={name: "repro.py" for name in names})
    row = judge(case, bare, Run("CHILD hung", 1.0), Run("CHILD ok", 1.0))
    page = command.markdown([row], "CPython 3.13.0", "")
    head = next(line for line in page.splitlines() if line.startswith("| case"))
    assert [cell.strip() for cell in head.strip("| ").split("|")][-len(names) :] == names
    assert summary([row])["py-spy"] == "where 1, what 0, who 0 of 1"
    assert summary([row])["CPython warns"] == "at 1 of 1 that hang, 0 of 0 controls"
    assert set(ANSWERS) == {"where", "what", "who"}
    assert json.loads(json.dumps(asdict(row)))["others"]["pystack"] == ["where"]
