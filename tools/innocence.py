"""Other people's tests, with Forkproof and without it: the same result, test by test?

    innocence.py [--python PYTHON]... [--suites cpython,gunicorn,...] [--json FILE] [--markdown FILE [JSON...]]

For each PYTHON (default: the one that runs this) two environments are made that differ in one thing: in one of them every
interpreter does as it starts what `FORKPROOF=on` asks for, whatever its options and environment are (a .pth file; `-S` alone does
without). In both, every interpreter that starts and every child of a fork leaves a letter in a file: so it is counted, not
believed, that Forkproof was there. Then the suites run in both at the same time:

    cpython    CPython's own tests of what forks, has threads, or is about starting (needs the `test` package)
    others     what tools/innocence.toml lists: the tests in the source archives of libraries that fork

A file of CPython's that crashed or did not end is run again whole, and the page says so. A test whose results differ is run
again, alone, several times in both: what differs then as well is a difference, unless it
came out both ways in both. What `--tests` has run again takes the place of what an earlier file says of the same tests. `--json` keeps what came out; `--markdown` makes the page from that and from other such files.
Exit status 1 if a difference is left that tools/innocence.toml does not explain, 2 if a suite could not be run.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import fnmatch
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from install import ROOT

ARMS = ("bare", "with")  # names of one length: paths of sockets have a limit
AGAIN = 5
LIMIT = 300  # seconds for one of CPython's files, which take up to two minutes on a busy machine
CPYTHON = (
    "test_fork1", "test_threading", "test_thread", "test_logging", "test_os", "test_pty", "test_wait3", "test_wait4",
    "test_multiprocessing_fork", "test_concurrent_futures", "test_subprocess", "test_import",
)  # fmt: skip
KNOWN: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
# Takes for ever, with Forkproof or without, where the two threads that it has share a busy processor.
ENDLESS = "test_print_exception_gh_102056"
WORST = ("passed", "skipped", "failed", "error")

# Runs at the start of every interpreter of the environment. S and F: started, forked; a and w: with Forkproof there.
START = """
import os, sys

PLACE, ARMED = {place!r}, {armed!r}


def leave(letter):
    try:
        file = os.open(PLACE, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, letter)
        finally:
            os.close(file)
    except OSError:
        pass


def forked():
    watched = False
    if ARMED and _native:
        global seen
        forks = _native.forks()
        watched, seen = forks > seen, forks
    leave(b"w" if watched else b"F")


if ARMED:
    import forkproof.auto  # as FORKPROOF=on does
    from forkproof.guard import _native  # None in a subinterpreter

    seen = _native.forks() if _native else 0
leave(b"a" if ARMED else b"S")
os.register_at_fork(after_in_child=forked)
"""


class Environment:
    """A virtual environment whose interpreters count themselves, and have Forkproof or not."""

    def __init__(self, python: str, version: str, arm: str) -> None:
        self.version, self.arm = version, arm
        self.folder = ROOT / ".venvs" / f"innocence-{version}-{arm}"
        self.python = self.folder / "bin" / "python"
        self.count = self.folder / "count"
        subprocess.run([python, ROOT / "tools" / "install.py", self.folder, "cli"], check=True)
        (site,) = (self.folder / "lib").glob("python*/site-packages")
        start = START.format(place=str(self.count), armed=arm == "with")
        self._files = {
            site / "forkproof_innocence.py": start,
            site / "forkproof_innocence.pth": "import forkproof_innocence\n",
        }
        for file in self._files:
            file.unlink(missing_ok=True)

    def pip(self, *arguments: str | Path) -> None:
        subprocess.run(
            [self.python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True
        )

    def begin(self) -> None:
        """From here on its interpreters count."""
        self.count.write_text("")
        self.count.chmod(0o666)
        for file, text in self._files.items():
            file.write_text(text)

    def counted(self) -> dict[str, int]:
        letters = collections.Counter(self.count.read_text())
        return {
            "started": letters["S"] + letters["a"],
            "armed": letters["a"],
            "forked": letters["F"] + letters["w"],
            "watched": letters["w"],
        }

    def run(
        self,
        command: list[str | Path],
        folder: Path,
        limit: float,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """What it printed. Its lines of progress are passed on."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "FORKPROOF", "_FORKPROOF", "PYTEST", "CI"))
        }
        env |= {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}",
            **(variables or {}),
        }
        told: list[str] = []
        with subprocess.Popen(
            [self.python, *command], cwd=folder, env=env, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            timer = threading.Timer(limit, lambda: os.killpg(process.pid, 9))
            timer.daemon = True
            timer.start()
            assert process.stdout
            for line in process.stdout:
                told.append(line)
                if re.match(r"\d+:\d\d:\d\d .*\[|.*\[ *\d+%\]$", line):
                    say(f"{self.arm}: {line.rstrip()[:150]}")
            timer.cancel()
        return "".join(told)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def worse(one: str, other: str) -> str:
    return max(one, other, key=WORST.index)


def read_junit(file: Path) -> dict[str, str]:
    """The result of each test; the worst of those that have one name (subtests, parameters told twice)."""
    results: dict[str, str] = {}
    try:
        tree = ET.parse(file)
    except (OSError, ET.ParseError):
        return results
    for case in tree.iter("testcase"):
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        if not name:  # a file that could not be begun
            continue
        result = "passed"
        for tag, word in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
            if case.find(tag) is not None:
                result = word
        results[name] = worse(results.get(name, "passed"), result)
    return results


class Suite:
    """How a suite is run whole and how one test of it is run again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = ""
        self.broken: dict[str, list[str]] = {arm: [] for arm in ARMS}  # files that were run again
        self.missing: list[str] = []  # files that this interpreter has not
        self.only: list[str] = []  # files, where not all are run

    def prepare(self, environments: Iterable[Environment], scratch: Path) -> None:
        """Whatever must be installed; `version` is known afterwards."""

    def whole(self, environment: Environment, scratch: Path) -> dict[str, str]:
        raise NotImplementedError

    def once(self, environment: Environment, test: str, scratch: Path) -> str:
        raise NotImplementedError


class CPythonSuite(Suite):
    """regrtest, `jobs` files at once."""

    tests = CPYTHON
    jobs = 1

    def prepare(self, environments: Iterable[Environment], scratch: Path) -> None:
        """Some installations of Python have a part of its tests."""
        environment, *_ = environments
        self.only = [] if self.tests == CPYTHON else list(self.tests)
        look = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if not u.find_spec('test.' + n)))"
        told = subprocess.run(
            [environment.python, "-c", look, *self.tests], check=True, capture_output=True, text=True
        )
        self.missing = told.stdout.split()

    def whole(self, environment: Environment, scratch: Path) -> dict[str, str]:
        files = [test for test in self.tests if test not in self.missing]
        results, told = self._run(environment, scratch, [f"-j{self.jobs}", "--ignore", ENDLESS, *files], 7200)
        for file in self._broken(told):
            # It has no results of its own; to compare its tests with the other arm's would tell nothing.
            self.broken[environment.arm].append(file)
            again, told = self._run(environment, scratch, ["-j1", "--ignore", ENDLESS, file], 2 * LIMIT)
            results |= again
            if self._broken(told):
                results[f"{file} (the file)"] = "error"
        return results

    @staticmethod
    def _broken(told: str) -> list[str]:
        """The files of which regrtest says that they crashed or were stopped."""
        pattern = r"^\d+:\d\d:\d\d .*\[ *\d+/\d+[^]]*\] (\S+) (?:crashed|timed out|process crashed|worker)"
        return sorted(set(re.findall(pattern, told, re.M)))

    def once(self, environment: Environment, test: str, scratch: Path) -> str:
        found = re.match(r"test\.(test_\w+)\b", test)
        file = test.split()[0] if test.endswith("(the file)") else found[1] if found else test.split(".")[0]
        # No --ignore: from 3.13 on, where that comes first, all tests are run that it does not name.
        results, told = self._run(environment, scratch, ["-j1", "-m", test, file], 600)
        return results.get(test, "error" if "crashed" in told or "timed out" in told else "absent")

    def _run(
        self, environment: Environment, scratch: Path, arguments: list[str], limit: float
    ) -> tuple[dict[str, str], str]:
        with tempfile.TemporaryDirectory(dir=scratch, prefix="t-") as folder:
            file = Path(folder, "junit.xml")
            told = environment.run(
                ["-m", "test", "-W", "--timeout", str(LIMIT), "--junit-xml", file, "--tempdir", folder, *arguments],
                Path(folder), limit,
            )  # fmt: skip
            with (scratch / f"cpython-{environment.arm}.log").open("a") as log:
                log.write(told)
            results: dict[str, str] = {}
            for name, result in read_junit(file).items():
                test = re.sub(r" [\[(].*", "", name)
                results[test] = worse(results.get(test, "passed"), result)
            # Of a test whose subtest fails regrtest's file has a result without a name; what unittest prints (-W) names it.
            for word, test in re.findall(r"^(FAIL|ERROR): \w+ \((test\.[\w.]+)\)", told, re.M):
                results[test] = worse(results.get(test, "passed"), "failed" if word == "FAIL" else "error")
            return results, told


@dataclass(frozen=True)
class Archive:
    """A table `[suite.NAME]` of tools/innocence.toml, which says what its keys mean."""

    requirement: str
    tests: list[str]
    needs: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    service: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    limit: float = 1800


@contextmanager
def serving(command: list[str], folder: Path) -> Iterator[str]:
    """A server on the loopback, `{port}` in its command standing for its port, which this gives once it listens.

    Raises OSError if it is not installed and CalledProcessError if it ends or does not listen within a minute.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    filled = [word.format(port=port) for word in command]
    process = subprocess.Popen(filled, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            if process.poll() is not None:
                raise subprocess.CalledProcessError(process.returncode, filled)
            time.sleep(0.1)
        else:
            raise subprocess.CalledProcessError(1, filled)
        yield port
    finally:
        process.terminate()
        process.wait()


class ArchiveSuite(Suite):
    """pytest, in a copy of the project's source archive for each environment."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._archive = Archive(**KNOWN["suite"][name])
        self._project, _, self.version = self._archive.requirement.partition("==")
        self._ids: dict[tuple[str, str], str] = {}  # an environment's and a test's names: how pytest calls it

    def prepare(self, environments: Iterable[Environment], scratch: Path) -> None:
        for environment in environments:
            folder = scratch / f"{self.name}-{environment.arm}"
            fetch: list[str | Path] = [
                "download",
                "--no-deps",
                "--no-binary",
                self._project,
                "--dest",
                folder / "archive",
            ]
            environment.pip(*fetch, self._archive.requirement)
            (archive,) = (folder / "archive").iterdir()
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            shutil.rmtree(folder / "archive")
            environment.pip("install", self._archive.requirement, *self._archive.needs)

    def whole(self, environment: Environment, scratch: Path) -> dict[str, str]:
        series = ".".join(environment.version.split(".")[:2])
        tests = [test.format(series=series) for test in self._archive.tests]
        results = self._run(environment, scratch, tests, self._archive.limit)
        if not results:
            raise subprocess.CalledProcessError(1, ["pytest", *tests])
        return results

    def once(self, environment: Environment, test: str, scratch: Path) -> str:
        return self._run(environment, scratch, [self._ids.get((environment.arm, test), test)], 600).get(
            test, "absent"
        )

    def _run(self, environment: Environment, scratch: Path, tests: list[str], limit: float) -> dict[str, str]:
        (source,) = (scratch / f"{self.name}-{environment.arm}").iterdir()
        file = scratch / f"{self.name}-{environment.arm}.xml"
        file.unlink(missing_ok=True)
        options = ["-p", "no:cacheprovider", "-o", "addopts=", f"--junit-xml={file}", *self._archive.options]
        service = self._archive.service
        with serving(service, scratch) if service else nullcontext("") as port:
            variables = {name: value.format(port=port) for name, value in self._archive.variables.items()}
            told = environment.run(["-m", "pytest", *options, *tests], source, limit, variables)
        with (scratch / f"{self.name}-{environment.arm}.log").open("a") as log:
            log.write(told)
        results: dict[str, str] = {}
        for told_name, result in read_junit(file).items():
            name = told_name.replace(
                f"{source}{os.sep}", ""
            )  # among the parameters: it is another one in each
            self._ids[environment.arm, name] = self._id_of(source, told_name)
            results[name] = result
        return results

    @staticmethod
    def _id_of(source: Path, name: str) -> str:
        """pytest's id of a test of its junit file: its dotted name is that of a file, perhaps a class, and the test."""
        plain, bracket, parameters = name.partition("[")
        words = plain.split(".")
        for count in range(len(words) - 1, 0, -1):
            file = Path(*words[:count]).with_suffix(".py")
            if (source / file).exists():
                return "::".join([str(file), *words[count:]]) + bracket + parameters
        return name


def in_both(do: Callable[[str], object]) -> None:
    """At the same time: what else the machine does weighs on both."""
    with concurrent.futures.ThreadPoolExecutor(len(ARMS)) as pool:
        list(pool.map(do, ARMS))


def compare(suite: Suite, environments: dict[str, Environment], scratch: Path) -> dict[str, Any]:
    """Both arms at once, and again what differs."""
    began = time.monotonic()
    for environment in environments.values():
        environment.begin()
    results: dict[str, dict[str, str]] = {}

    def one(arm: str) -> None:
        results[arm] = suite.whole(environments[arm], scratch)

    in_both(one)
    counts = {arm: environments[arm].counted() for arm in ARMS}
    names = sorted(set().union(*results.values()))
    unended = tuple(f"test.{name.split()[0]}." for name in names if name.endswith(" (the file)"))
    differing = [
        name
        for name in names
        if results["bare"].get(name) != results["with"].get(name) and not name.startswith(unended)
    ]
    differences = []
    for name in differing:
        seen = {arm: [results[arm].get(name, "absent")] for arm in ARMS}

        def again(arm: str, name: str = name, seen: dict[str, list[str]] = seen) -> None:
            seen[arm].append(suite.once(environments[arm], name, scratch))

        for number in range(AGAIN):
            in_both(again)
            say(f"{name}, again {number + 1} of {AGAIN}: bare {seen['bare'][-1]}, with {seen['with'][-1]}")
        differences.append({"test": name, **seen})
    return {
        "suite": suite.name,
        "version": suite.version,
        "results": {arm: dict(collections.Counter(results[arm].values())) for arm in ARMS},
        "counts": counts,
        "differences": differences,
        "broken": suite.broken,
        "missing": suite.missing,
        "only": suite.only,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def left(difference: dict[str, Any]) -> bool:
    """Whether it differs when it is run alone too; what comes out both ways without Forkproof proves nothing."""
    bare, armed = (collections.Counter(difference[arm][1:]) for arm in ARMS)
    return bare != armed and len(set(difference["bare"])) == 1


def explained(difference: dict[str, Any]) -> str:
    for entry in KNOWN["difference"]:
        if fnmatch.fnmatchcase(difference["test"], entry["test"]):
            return " ".join(entry["why"].split())
    return ""


def version_of(python: str) -> str:
    told = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    )
    return told.stdout.strip()


def has_tests(python: str) -> bool:
    told = subprocess.run([python, "-c", "import test.test_fork1, test.libregrtest"], capture_output=True)
    return told.returncode == 0


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {platform.libc_ver()[1]}, {os.cpu_count()} processors"


def notes(suite: dict[str, Any]) -> Iterator[str]:
    if suite["missing"]:
        yield f"its installation has no {', '.join(f'`{name}`' for name in suite['missing'])}."
    for arm, word in zip(ARMS, ("without Forkproof", "with it"), strict=True):
        for file in suite["broken"][arm]:
            yield f"`{file}` crashed or did not end within {LIMIT} s {word}, and was run again."


def renewed(runs: list[dict[str, Any]], run: dict[str, Any], test: str) -> bool:
    """Whether a later run, of some of CPython's files only, has a newer result of the test."""
    return any(
        f".{file}." in test
        for later in runs[runs.index(run) + 1 :]
        if later["python"] == run["python"]
        for suite in later["suites"]
        for file in suite.get("only", ())
    )


def page(runs: list[dict[str, Any]]) -> str:
    """The page that `--markdown` writes."""

    def row(*cells: object) -> str:
        return "| " + " | ".join(map(str, cells)) + " |"

    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{counts[word]} {word}" for word in (*WORST, "absent") if counts.get(word))

    lines = [
        row(
            "CPython",
            "suite",
            "without Forkproof",
            "with it",
            "interpreters with it",
            "forks it saw",
            "differ",
            "when run alone",
        ),
        row(*["---"] * 8),
    ]
    for run in runs:
        for suite in run["suites"]:
            armed = suite["counts"]["with"]
            lines.append(row(
                run["python"], " ".join(filter(None, (suite["suite"], suite["version"], *suite.get("only", ())))),
                told(suite["results"]["bare"]), told(suite["results"]["with"]),
                f"{armed['armed']} of {armed['started']}", f"{armed['watched']} of {armed['forked']}",
                len(suite["differences"]), sum(map(left, suite["differences"])),
            ))  # fmt: skip
    lines += [
        "",
        *sorted({f"- CPython {run['python']}: {run['machine']}, {run['date']}." for run in runs}),
        *(
            f"- CPython {run['python']}: {words}"
            for run in runs
            for suite in run["suites"]
            for words in notes(suite)
        ),
        "",
    ]
    lines += [row("CPython", "test that differed", "without", "with", ""), row(*["---"] * 5)]
    for run in runs:
        for suite in run["suites"]:
            for difference in suite["differences"]:
                if renewed(runs, run, difference["test"]):
                    continue
                why = explained(difference) or ("" if left(difference) else "not when it is run alone")
                cells = (told(collections.Counter(difference[arm])) for arm in ARMS)
                lines.append(row(run["python"], f"`{difference['test']}`", *cells, why))
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- made by tools/innocence.py -->\n", "<!-- end -->\n"


def write_page(file: Path, runs: list[dict[str, Any]]) -> None:
    """Replaces what stands between the marks; the rest of the page stays."""
    before, _, rest = file.read_text().partition(BEGIN)
    file.write_text(before + BEGIN + page(runs) + END + rest.partition(END)[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="may be repeated")
    parser.add_argument("--suites", default=",".join(["cpython", *KNOWN["suite"]]), metavar="NAMES")
    parser.add_argument(
        "--tests", default=",".join(CPYTHON), metavar="NAMES", help="of CPython's, only these"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="of CPython's, N at once in each of the two"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the page to write")
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="JSON", help="of earlier runs: nothing is run"
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the suites printed")
    asked = parser.parse_args()
    runs: list[dict[str, Any]] = [run for file in asked.results for run in json.loads(file.read_text())]
    # In the background of a shell Ctrl-C is ignored, and so it would be by the tests, some of which send themselves one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    CPythonSuite.tests, CPythonSuite.jobs = tuple(asked.tests.split(",")), asked.jobs
    status = 0
    for python in asked.python or ([] if runs else [sys.executable]):
        version = version_of(python)
        say(f"== CPython {version}")
        environments = {arm: Environment(python, version, arm) for arm in ARMS}
        run: dict[str, Any] = {
            "python": version,
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
            "suites": [],
        }
        runs.append(run)
        for name in asked.suites.split(","):
            if name == "cpython" and not has_tests(python):
                say(f"{python} has no tests of its own")
                status = 2
                continue
            suite = CPythonSuite(name) if name == "cpython" else ArchiveSuite(name)
            with tempfile.TemporaryDirectory(prefix="innocence-") as folder:
                scratch = Path(folder)
                try:
                    suite.prepare(environments.values(), scratch)
                    found = compare(suite, environments, scratch)
                except (OSError, subprocess.CalledProcessError) as error:
                    say(f"{name} could not be run: {error}")
                    status = 2
                    continue
                finally:
                    if asked.logs:
                        asked.logs.mkdir(parents=True, exist_ok=True)
                        for log in scratch.glob("*.log"):
                            shutil.copy(log, asked.logs / f"{version}-{log.name}")
            for difference in found["differences"]:
                say(f"{difference}")
                if left(difference) and not explained(difference):
                    status = status or 1
            say(f"{version} {name}: {found['results']} {found['counts']}")
            armed = found["counts"]["with"]
            if (
                not armed["armed"]
                or (armed["forked"] and not armed["watched"])
                or found["counts"]["bare"]["armed"]
            ):
                say("Forkproof was not where it should have been, or was where it should not: not counted")
                status = 2
                continue
            run["suites"].append(found)
            if asked.json:  # after each suite: a run that is stopped keeps those that ended
                asked.json.write_text(json.dumps(runs, indent=1))
            for environment in environments.values():
                for file in environment._files:
                    file.unlink(missing_ok=True)
    if asked.markdown:
        write_page(asked.markdown, runs)
    else:
        print(page(runs))
    return status


if __name__ == "__main__":
    sys.exit(main())
