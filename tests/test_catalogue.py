"""The catalogue of native calls: well-formed, true of the interpreter it is read by, and read without side effects."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forkproof import catalogue

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(catalogue.__file__).parent
EVERY = catalogue.all_calls()


def _id(call: catalogue.Call) -> str:
    return f"{call.what}: {call.names[0]}"


@pytest.mark.parametrize(
    "name", ["calls.toml", "connections.toml", "locks.toml", "workers.toml", "pools.toml"]
)
def test_our_reader_reads_what_tomllib_reads(name):
    with (DATA / name).open("rb") as file:
        assert catalogue._read(name) == tomllib.load(file)


@pytest.mark.parametrize(
    "text",
    [
        'what = "outside of any table"',
        "[[call]]\nnumber = 3",
        '[[call]]\nwhat = "a\\nb"',
        '[[call]]\nwhat = "one" "two"',
        '[[call]]\nwhat = "one", "two"',
        '[[call]]\nwhat = "no end',
        '[[call]]\nwhat = "a"\nwhat = "twice"',
        '[[call]]\nnames = ["a" "b"]',
        '[[call]]\nnames = ["a", b]',
        '[[call]]\nnames = ["a",\n"b"',
        "[call]\nwhat = 'a'",
        "[[call]]\njust words",
    ],
)
def test_our_reader_refuses_what_it_does_not_know(text):
    with pytest.raises(ValueError, match=r"catalogue|unpack"):
        catalogue._parse(text)


def test_our_reader_reads_strings_arrays_and_truth():
    text = '# c\n[[call]]\na = "x, y] = z"\nb = true\nc = false\nd = ["p", "q"]\ne = [\n  "r", "s",\n  # no\n  "t"\n]\nf = []\n'
    table = {"a": "x, y] = z", "b": True, "c": False, "d": ["p", "q"], "e": ["r", "s", "t"], "f": []}
    assert catalogue._parse(text) == {"call": [table]} == tomllib.loads(text)


@pytest.mark.parametrize("call", EVERY, ids=_id)
def test_every_family_is_well_formed(call):
    assert call.resource in ("process", "object", "stream")
    assert call.only in (None, "host-name", "address")
    assert {"stdin", "stdout", "stderr"}.issuperset(call.streams)
    assert not call.streams or call.resource == "stream"
    assert isinstance(call.gil_outside, bool)
    assert call.names
    assert len(set(call.names)) == len(call.names)
    for name in call.names:
        assert re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name)
    if call.resource == "object":
        assert all(name.count(".") >= 2 for name in call.names), "an object is what a method is called on"
    for sentence in (call.what, call.holds, call.child, call.advice):
        assert sentence == sentence.strip()
        assert sentence
        assert not sentence.endswith(".")
    catalogue.version_matches(call.python, (3, 11))  # can be read


@pytest.mark.parametrize("call", EVERY, ids=_id)
def test_every_family_says_how_it_is_known(call):
    assert re.search(r"\.(c|pyx|pxi)\b", call.source), "names the source file"
    if call.emulated:
        assert (ROOT / "docs" / "emulate.md").exists()
        return  # ours to say what it holds; tests/test_lab_emulate.py sees to it that it does
    scripts = re.findall(r"experiments/native_calls/(\w+\.py)", call.source)
    assert scripts, "names the experiment"
    for script in scripts:
        assert (ROOT / "experiments" / "native_calls" / script).exists()
    assert re.search(r"\d+ of \d+", call.source), "says what was seen"


def test_no_name_is_in_two_families():
    """But one of each that is emulated, which goes first and counts."""
    names = [name for call in EVERY if not call.emulated for name in call.names]
    assert sorted(names) == sorted(set(names))


def test_what_is_emulated_comes_first():
    emulated = [bool(call.emulated) for call in EVERY]
    assert emulated == sorted(emulated, reverse=True)
    assert any(emulated)


HERE = [
    pytest.param(call, name, id=name)
    for call in EVERY
    if call.applies(catalogue.platform_here(), sys.version_info[:3])
    for name in call.names
]


@pytest.mark.parametrize(("call", "name"), HERE)
def test_every_name_resolves_on_this_interpreter(call, name):
    module = name.partition(".")[0]
    try:
        importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} was not built")
    found = catalogue.resolve(name)
    kind = type(found).__name__
    if call.resource == "object" or name.count(".") == 2:
        assert kind in ("method_descriptor", "wrapper_descriptor", "builtin_function_or_method"), found
    else:
        assert kind in ("builtin_function_or_method", "type"), found
        assert callable(found)


@pytest.mark.parametrize("entry", catalogue.all_connections(), ids=lambda entry: entry.what)
def test_every_library_with_connections_says_how_it_is_known_and_what_to_do(entry):
    assert entry.packages or entry.libraries
    assert not any(name.startswith("/") or name.endswith("/") for name in entry.packages)
    assert all(part.startswith("/") for part in entry.libraries), "of paths"
    assert "experiments/connections" in entry.source
    assert not any(sentence.endswith(".") for sentence in (entry.child, entry.source, entry.advice))


def test_what_resolves_is_what_a_program_calls():
    import io
    import socket
    import zlib

    assert catalogue.resolve("_socket.getaddrinfo") is socket._socket.getaddrinfo
    assert catalogue.resolve("_io.BufferedWriter.write") is io.BufferedWriter.write
    assert catalogue.resolve("builtins.print") is print
    # a type that its module does not show
    assert catalogue.resolve("zlib.Compress.compress") is type(zlib.compressobj()).compress


def test_resolving_imports_nothing_and_finds_nothing_that_is_not_there():
    code = """
import sys
from forkproof import catalogue
before = set(sys.modules)
for call in catalogue.all_calls():
    for name in call.names:
        catalogue.resolve(name)
for lock in catalogue.all_locks():
    catalogue.resolve(lock.path)
assert set(sys.modules) == before, set(sys.modules) - before
assert "_sqlite3" not in sys.modules and catalogue.resolve("_sqlite3.connect") is None
import sqlite3
assert catalogue.resolve("_sqlite3.connect") is sqlite3.connect
assert catalogue.resolve("_sqlite3.nothing") is None and catalogue.resolve("builtins.print.nothing") is None
"""
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env=_env(), timeout=60)


def test_the_reader_imports_nothing_that_hides_a_hazard():
    code = """
import os, sys
import forkproof
before = set(sys.modules)
from forkproof import catalogue
catalogue.calls(), catalogue.all_locks()
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, env=_env(), timeout=60, capture_output=True, text=True
    )
    assert set(done.stdout.split()) <= {"forkproof.catalogue", "__future__"}


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


def test_resolving_runs_no_code_of_the_module(monkeypatch):
    class Lazy(type(sys)):
        def __getattr__(self, name):
            raise AssertionError("a lazy module was woken up")

    class Trap:
        @property
        def attribute(self):
            raise AssertionError("a property was run")

    module = Lazy("lazy_for_the_catalogue")
    module.trap = Trap()
    monkeypatch.setitem(sys.modules, "lazy_for_the_catalogue", module)
    assert catalogue.resolve("lazy_for_the_catalogue.something") is None
    assert catalogue.resolve("lazy_for_the_catalogue.trap.attribute") is None


def test_an_attribute_that_a_c_type_keeps_is_found():
    class Slotted:
        __slots__ = ("kept",)

    slotted = Slotted()
    slotted.kept = 7
    module = type(sys)("module_with_a_slot")
    module.slotted = slotted
    sys.modules["module_with_a_slot"] = module
    try:
        assert catalogue.resolve("module_with_a_slot.slotted.kept") == 7
        del slotted.kept
        assert catalogue.resolve("module_with_a_slot.slotted.kept") is None
    finally:
        del sys.modules["module_with_a_slot"]


@pytest.mark.parametrize(
    ("wanted", "version", "met"),
    [
        ("", (3, 11), True),
        (">=3.12", (3, 11, 9), False),
        (">=3.12", (3, 12), True),
        (">=3.12", (3, 12, 0), True),
        ("<3.14", (3, 13, 9), True),
        ("<3.14", (3, 14), False),
        ("<3.14", (3, 14, 1), False),
        (">=3.11,<3.14", (3, 13), True),
        (">=3.11,<3.14", (3, 14, 0), False),
        (">=3.11, <3.14", (3, 10), False),
        ("==3.12", (3, 12, 0), True),
        ("==3.12", (3, 12, 1), False),
        ("!=3.12.1", (3, 12, 1), False),
        (">3.12", (3, 12), False),
        ("<=3.12", (3, 12, 0), True),
        ("<3.14", (3, 9), True),
    ],
)
def test_versions(wanted, version, met):
    assert catalogue.version_matches(wanted, version) is met


def test_a_version_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="version"):
        catalogue.version_matches("~=3.12", (3, 12))


def test_families_are_chosen_by_platform_and_version():
    def whats(platform, version):
        return {name for call in catalogue.calls(platform, version) for name in call.names}

    assert "syslog.syslog" in whats("linux-gnu", (3, 11))
    assert "syslog.syslog" not in whats("linux", (3, 11)), "musl takes its lock at a fork"
    assert "syslog.syslog" not in whats("darwin", (3, 11))
    assert "_socket.getaddrinfo" in whats("darwin", (3, 11))
    assert "_socket.getaddrinfo" in whats("freebsd14", (3, 11))
    assert "_socket.getaddrinfo" not in whats("linux", (3, 11))
    assert "_io.BufferedWriter.write" in whats("linux", (3, 11)) & whats("darwin", (3, 15))
    assert "_warnings.warn" not in whats("linux-gnu", (3, 13, 9))
    assert "_warnings.warn" in whats("linux-gnu", (3, 14))
    assert "_sha1.SHA1Type.update" not in whats("linux-gnu", (3, 11))
    assert "pwd.getpwnam" in whats("linux-gnu", (3, 11))


def test_users_are_looked_up_by_a_module_that_locks_or_not(monkeypatch, tmp_path):
    conf = tmp_path / "nsswitch.conf"
    monkeypatch.setattr(catalogue, "platform_here", lambda: "linux-gnu")
    real = catalogue._name_services
    monkeypatch.setattr(catalogue, "_name_services", lambda: real(str(conf)))

    def listed():
        return any("pwd.getpwnam" in call.names for call in catalogue.calls())

    conf.write_text("passwd:  files systemd\ngroup: files # sss\nhosts: files sss\n")
    assert not listed()
    conf.write_text("passwd:\t files sss\n")
    assert listed()
    conf.write_text("# a comment\ngroup: winbind [NOTFOUND=return] files\n")
    assert listed()
    conf.unlink()
    assert not listed()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_glibc_is_told_from_other_c_libraries(monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    assert catalogue.platform_here() == "linux-gnu"

    def musl(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", musl)
    assert catalogue.platform_here() == "linux"


@pytest.mark.parametrize("lock", catalogue.all_locks(), ids=lambda lock: lock.path)
def test_every_lock_is_well_formed(lock):
    assert lock.path.startswith(lock.distribution.replace("-", "_") + ".")
    assert lock.what
    assert lock.advice
    assert re.search(r"\d+ of \d+", lock.source)
    for script in re.findall(r"experiments/native_calls/(\w+\.py)", lock.source):
        assert (ROOT / "experiments" / "native_calls" / script).exists()
    catalogue.version_matches(lock.versions, (1, 0))


def test_an_unknown_key_is_an_error():
    entry = catalogue._read("calls.toml")["call"][0]
    with pytest.raises(ValueError, match="unknown keys"):
        catalogue.Call({**entry, "resourse": "process"})
    with pytest.raises(ValueError, match="unknown keys"):
        catalogue.Lock({**catalogue._read("locks.toml")["lock"][0], "version": "1"})


def test_every_family_is_in_the_documentation():
    text = (ROOT / "docs" / "native-calls.md").read_text()
    for call in EVERY:
        last = [name.rpartition(".")[2] for name in call.names]
        assert any(re.search(rf"`[\w.]*\b{name}`", text) for name in last), call


@pytest.mark.skipif(sys.platform != "linux", reason="the experiments are for Linux")
def test_an_experiment_tells_a_call_that_hangs_from_one_that_does_not(tmp_path):
    """The runner itself: real forks while a thread is inside the call, and the count of children that hung."""
    results = tmp_path / "results.jsonl"
    command = [
        sys.executable, str(ROOT / "experiments" / "native_calls" / "run.py"), "--no-gdb", "--plain",
        "--json", str(results), "--scratch", str(tmp_path), "BufferedWriter.write / child: (write|another file)",
    ]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")}
    subprocess.run(command, check=True, timeout=120, env=env, capture_output=True)
    hung = {line["row"]: (line["hung"], line["forks"], line["inside"])
            for line in map(json.loads, results.read_text().splitlines())}  # fmt: skip
    assert hung == {
        "BufferedWriter.write / child: write": (3, 3, 3),
        "BufferedWriter.write / child: another file": (0, 3, 3),
    }
