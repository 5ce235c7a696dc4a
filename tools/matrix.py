"""Run the tests on every CPython 3.11+ that is found, each in an environment of its own (.venvs/VERSION).

    matrix.py [--pytest=OPTIONS] [PYTHON...]

Without PYTHON: the one that runs this, python3.11 to python3.15 on PATH, and pyenv's. An interpreter that
cannot build the extension or make an environment is skipped, with a line that says why; one that was named
must not be.

A few tests that fail beside others are run again, one after the other and with nothing beside them: they start real processes with time
limits, and the machine may have had no time for one of them. Which passed only then is said at the end: it is a fault to be mended.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from install import PARTS, ROOT

AGAIN = 5
"""More failures than this are no chance."""

# Run by each candidate: its name here, and what it lacks ("" if nothing).
PROBE = """
import importlib.util, os, sys, sysconfig
free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print("%d.%d.%d" % sys.version_info[:3] + free)
if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
    print("is not CPython 3.11 or later")
elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("has no headers (Python.h)")
elif not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    print("has no venv module")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pytest", default="", metavar="OPTIONS", help="options for pytest, as one argument")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    asked = parser.parse_args()

    results: dict[str, str] = {}
    for python in asked.pythons or _candidates():
        version, lacks = _probe(python)
        if asked.pythons and (lacks or not version):
            sys.exit(f"{python}: {lacks or 'does not run'}")
        if not version or version in results:
            continue
        if lacks:
            results[version] = f"skipped: {python} {lacks}"
            print(results[version], flush=True)
            continue
        print(f"\n== CPython {version} ({python})", flush=True)
        results[version] = _test(python, version, shlex.split(asked.pytest))

    print("\n== " + ", ".join(f"{version}: {result}" for version, result in results.items()))
    passed = any(result.startswith("passed") for result in results.values())
    return 0 if passed and "failed" not in results.values() else 1


def _candidates() -> Iterator[str]:
    yield sys.executable
    for minor in range(11, 16):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    yield from map(str, sorted(versions.glob("3.1[1-9]*/bin/python3")))


def _probe(python: str) -> tuple[str, str]:
    """The version of `python` ("" if it does not run) and what it lacks."""
    try:
        told = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60)
    except OSError:
        return "", ""
    version, *lacks = told.stdout.splitlines() or [""]
    return version, "".join(lacks)


def _test(python: str, version: str, options: list[str]) -> str:
    environment = ROOT / ".venvs" / version
    stamp, sources = environment / "sources", _digest()
    if not stamp.exists() or stamp.read_text() != sources:
        installed = subprocess.run([python, ROOT / "tools" / "install.py", environment, "test"])
        if installed.returncode:
            return "failed"
        stamp.write_text(sources)
    # Most tests wait for a child: twice as many at once as there are processors ends soonest.
    several = f"--numprocesses={min(2 * (os.cpu_count() or 1), 16)}"
    pytest = [str(environment / "bin" / "python"), "-m", "pytest", *options]
    if not subprocess.run([*pytest, several], cwd=ROOT).returncode:
        return "passed"
    failed = _failed()
    if not 0 < len(failed) <= AGAIN:
        return "failed"
    print(f"\n== CPython {version}, what failed: again, and alone", flush=True)
    if subprocess.run([*pytest, "--last-failed", "--numprocesses=0"], cwd=ROOT).returncode:
        return "failed"
    return f"passed ({', '.join(failed)} only when run again alone)"


def _failed() -> list[str]:
    """The tests that failed in the last run, as pytest remembers them."""
    try:
        return list(json.loads((ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed").read_text()))
    except (OSError, ValueError):
        return []


def _digest() -> str:
    """Changes when anything changes that an installation is made from."""
    digest = hashlib.sha256()
    for part in PARTS:
        files = sorted((ROOT / part).rglob("*")) if (ROOT / part).is_dir() else [ROOT / part]
        for file in files:
            if file.is_file() and file.suffix not in (".pyc", ".so"):
                digest.update(f"{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
