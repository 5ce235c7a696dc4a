"""The tests of what is written in C, with the extension built for AddressSanitizer and UBSan.

    sanitize.py [--python PYTHON] [--plain] [--malloc NAMES] [FILE...] [-- PYTEST OPTIONS]

The extension reads frames of threads that it has stopped in the middle of something, so what must be shown is that it never
reads what has been freed. Python is as it is; under `--malloc malloc` its objects come from the C library's allocator, and so
from AddressSanitizer's, which keeps freed memory out of use and sees each read of it by the extension. Under
`debug` Python itself fills freed memory with a pattern and checks the ends of each block. `--plain`: without the sanitizers, for a PYTHON
that is a debug build: its own assertions are what is asked, with `-X dev`, and benchmarks/flat.py then counts all references there
are beside looks and forks. Leaks are not looked for: Python leaves much at its end. Left out is what tools/sanitize.toml lists: tests to
which the sanitizers' own doing, or that of `-X dev`, looks like a fault.

Exit status: pytest's, or 1 if a sanitizer reported anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from install import ROOT

FLAGS = "-fsanitize=address,undefined -fno-omit-frame-pointer -g"
FILES = (
    "test_evidence_*.py", "test_guard_*.py", "test_ground_truth.py", "test_connections.py", "test_watch.py",
    "test_workers.py", "test_pools.py",
)  # fmt: skip
FLAT = ("--looks", "20000", "--forks", "1000", "--generations", "100")
# What a release build shows (Doc/library/warnings.rst, "Default Warning Filter"), the last one first. A debug build and dev mode show all,
# and a test that wants nothing on stderr would fail for a socket that its program leaves open.
WARNINGS = (
    "ignore::ResourceWarning,ignore::ImportWarning,ignore::PendingDeprecationWarning,ignore::DeprecationWarning,"
    "default::DeprecationWarning:__main__"
)
NEEDS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "jsonschema>=4.20")


def library(name: str) -> str:
    """The path of one of the compiler's own libraries."""
    compiler = os.environ.get("CC", "cc")
    told = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(told.stdout.strip())
    if not path.is_absolute():
        sys.exit(f"{compiler} has no {name}")
    return str(path.resolve())


def environment(python: str, plain: bool) -> Path:
    """An environment of its own, with Forkproof built so."""
    told = subprocess.run(
        [python, "-c", "import sys, platform; print(platform.python_version() + sys.abiflags)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder = ROOT / ".venvs" / f"{'plain' if plain else 'sanitize'}-{told.stdout.strip()}"
    flags = {} if plain else {"CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    installing: list[str | Path] = [python, ROOT / "tools" / "install.py", folder, "cli"]
    subprocess.run(installing, env={**os.environ, **flags}, check=True)
    pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *NEEDS], check=True)
    return folder / "bin" / "python"


def settings(plain: bool, malloc: str, reports: Path) -> dict[str, str]:
    found = {"PYTHONMALLOC": malloc}
    if plain:
        found["PYTHONDEVMODE"] = "1"
        found["PYTHONWARNINGS"] = WARNINGS
    else:
        found["LD_PRELOAD"] = library("libasan.so")
        # A child of a fork has its own report.
        common = f"log_path={reports}/report"
        found["ASAN_OPTIONS"] = f"{common}:detect_leaks=0:allocator_may_return_null=1"
        found["UBSAN_OPTIONS"] = f"{common}:print_stacktrace=1"
    return found


def left_out(plain: bool) -> list[str]:
    """pytest's options for it."""
    known = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["plain" if plain else "sanitizers"]
    return [f"--deselect={test}" for entry in known for test in entry["tests"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--malloc", default="malloc,debug", metavar="NAMES", help="values of PYTHONMALLOC")
    parser.add_argument("arguments", nargs="*", metavar="FILE", help="test files and options for pytest")
    asked = parser.parse_args()
    python = environment(asked.python, asked.plain)
    given = asked.arguments
    if not any(argument.partition("::")[0].endswith(".py") for argument in given):
        given = [*given, *sorted(str(file) for pattern in FILES for file in (ROOT / "tests").glob(pattern))]
    given = [*given, *left_out(asked.plain)]
    status = 0
    for malloc in asked.malloc.split(","):
        with tempfile.TemporaryDirectory(prefix="sanitize-") as folder:
            print(f"== PYTHONMALLOC={malloc}", flush=True)
            env = {**os.environ, **settings(asked.plain, malloc, Path(folder))}
            tested = subprocess.run([python, "-m", "pytest", "-q", *given], cwd=ROOT, env=env)
            status = status or tested.returncode
            reports = sorted(Path(folder).glob("report*"))
            for report in reports:
                print(f"== {report.name}\n{report.read_text(errors='replace')}")
            print(f"== PYTHONMALLOC={malloc}: {len(reports)} reports of sanitizers", flush=True)
            status = status or bool(reports)
    if asked.plain:
        counted = subprocess.run([python, ROOT / "benchmarks" / "flat.py", *FLAT])
        status = status or counted.returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
