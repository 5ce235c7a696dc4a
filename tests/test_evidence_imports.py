"""Imports in progress: which module's lock, and whose."""

# ruff: noqa: F811
from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from looking import Gate, Stage, expect, hazards, sightings, until
from looking import stage as stage  # the fixture

from forkproof.evidence import naming


@pytest.fixture
def place(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`place(name, text)` makes a module; what it made is forgotten at the end."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name: str, text: str, **values: Any) -> None:
        path = tmp_path / (name.replace(".", "/") + ".py")
        if path.name == "__init__.py":
            name = name.rpartition(".")[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        made.append(name)
        importlib.invalidate_caches()

    yield make
    stage.finish()  # what still imports is to find what it has begun
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def gates(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> dict[str, Gate]:
    """What the modules find as `sys.gates`: a gate for each name."""
    found = {name: stage.gate() for name in ("one", "two")}
    monkeypatch.setattr(sys, "gates", found, raising=False)
    return found


def importing(thread: threading.Thread) -> list[tuple[str, bool]]:
    """(what, certain) of all that is seen of the thread, which is nothing but imports."""
    seen = sightings(thread)
    assert {naming.STATES[s[2]] for s in seen} <= {"importing"}
    assert [h.kind for h in hazards(thread)] == ["import-lock"] * len(seen)
    return sorted((naming.what(s, [], {}), bool(s[4])) for s in seen)


WAYS = {
    "import": "def body(): import slow_one",
    "from import": "def body(): from slow_one import x",
    "__import__": "def body(): __import__('slow_one')",
    "import_module": "import importlib\ndef body(): importlib.import_module('slow_one')",
    "in a class body": "def body():\n    class C:\n        import slow_one",
    "exec": "def body(): exec('import slow_one')",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_whose_body_runs(stage: Stage, place: Any, gates: dict[str, Gate], way: str) -> None:
    place("slow_one", "import sys\nsys.gates['one'].wait()\nx = 1\n")
    space: dict[str, Any] = {}
    exec(WAYS[way], space)
    thread = stage.at(gates["one"], space["body"])
    assert importing(thread) == [("import of slow_one", True)]
    assert hazards(thread)[0].certainty == "certain"
    assert "import slow_one before" in hazards(thread)[0].advice
    gates["one"].open()
    thread.join()


def test_a_module_that_imports_another(stage: Stage, place: Any, gates: dict[str, Gate]) -> None:
    place("slow_one", "import sys\nsys.gates['one'].wait()\n")
    place("slow_two", "import slow_one\n")
    thread = stage.at(gates["one"], lambda: importlib.import_module("slow_two"))
    assert importing(thread) == [("import of slow_one", True), ("import of slow_two", True)]


def test_a_submodule(stage: Stage, place: Any, gates: dict[str, Gate]) -> None:
    place("slow_pack.__init__", "")
    place("slow_pack.inner", "import sys\nsys.gates['one'].wait()\n")
    thread = stage.at(gates["one"], lambda: importlib.import_module("slow_pack.inner"))
    assert ("import of slow_pack.inner", True) in importing(thread)
    assert all(certain for _, certain in importing(thread))


def test_one_that_waits_for_the_import_of_another_thread(
    stage: Stage, place: Any, gates: dict[str, Gate]
) -> None:
    place("slow_one", "import sys\nsys.gates['one'].wait()\n")
    first = stage.at(gates["one"], lambda: importlib.import_module("slow_one"))
    second = stage.start(lambda: importlib.import_module("slow_one"))
    until(lambda: sightings(second))
    until(lambda: any(f[0].co_name == "acquire" for s in sightings(second) for f in s[14]))
    assert importing(first) == [("import of slow_one", True)]
    assert importing(second) == [("import of slow_one", False)]


def test_two_threads_each_in_its_own_import(stage: Stage, place: Any, gates: dict[str, Gate]) -> None:
    place("slow_one", "import sys\nsys.gates['one'].wait()\n")
    place("slow_two", "import sys\nsys.gates['two'].wait()\n")
    first = stage.at(gates["one"], lambda: importlib.import_module("slow_one"))
    second = stage.at(gates["two"], lambda: importlib.import_module("slow_two"))
    assert importing(first) == [("import of slow_one", True)]
    assert importing(second) == [("import of slow_two", True)]


def test_an_import_within_a_with(stage: Stage, place: Any, gates: dict[str, Gate]) -> None:
    place("slow_one", "import sys\nsys.gates['one'].wait()\n")
    lock = threading.Lock()

    def body() -> None:
        with lock:
            importlib.import_module("slow_one")

    thread = stage.at(gates["one"], body)
    seen = sorted((naming.STATES[s[2]], bool(s[4])) for s in sightings(thread))
    assert seen == [("holds", True), ("importing", True)]


def test_a_lock_that_a_module_takes_in_its_body(stage: Stage, place: Any, gates: dict[str, Gate]) -> None:
    place(
        "slow_one",
        "import sys, threading\nlock = threading.Lock()\nwith lock:\n    sys.gates['one'].wait()\n",
    )
    thread = stage.at(gates["one"], lambda: importlib.import_module("slow_one"))
    seen = sorted((naming.STATES[s[2]], bool(s[4])) for s in sightings(thread))
    assert seen == [("holds", True), ("importing", True)]
    assert "lock of slow_one" in [h.what for h in hazards(thread)]


def test_an_import_that_has_ended_leaves_nothing(stage: Stage, place: Any) -> None:
    place("quick_one", "x = 1\n")
    gate = stage.gate()

    def body() -> None:
        importlib.import_module("quick_one")
        gate.wait()

    expect(stage.at(gate, body))


def test_an_import_of_what_is_loaded_already_is_none(stage: Stage) -> None:
    gate = stage.gate()

    def body() -> None:
        import json

        gate.wait()
        assert json

    expect(stage.at(gate, body))
