"""The commands: what is wrong with a command line is one line, and then nothing was run."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Run
from test_report import AT_RISK, WAITED, as_line

import forkproof

FORKPROOF = ("-m", "forkproof")
PACKAGE = Path(forkproof.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Programs that tell on disk that they were run, and things that are no programs."""
    tell = "open('it-ran', 'w').close()\n"
    (tmp_path / "ok.py").write_text(tell)
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text(tell)
    (package / "module.py").write_text(tell)
    (tmp_path / "empty").mkdir()
    (tmp_path / "runnable").mkdir()
    (tmp_path / "runnable" / "__main__.py").write_text(tell)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("other.py", tell)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "nothing to run: name a script, or -m module, or -c code"),
        ("nope.py", "no such script: 'nope.py'; check the path, or run a module with -m"),
        ("-- -x.py", "no such script: '-x.py'"),
        ("empty", "nothing to run in 'empty': it has no __main__.py"),
        ("empty.zip", "nothing to run in 'empty.zip': it has no __main__.py"),
        ("-m", "-m needs a module to run after it"),
        ("-c", "-c needs code to run after it"),
        ("-m nope", "no module named 'nope'; check"),
        ("-mnope", "no module named 'nope'; check"),
        ("-m nope.module", "no module named 'nope'; check"),
        ("-m pack.nope", "no module named 'pack.nope'"),
        ("-m pack.module.deeper", "no module named 'pack.module.deeper': 'pack.module' is not a package"),
        ("-m pack", "'pack' is a package without __main__; name a module inside it"),
        ("-m .relative", "no module named '.relative'"),
        (
            "--events no/such/folder/x ok.py",
            "cannot write events to 'no/such/folder/x': No such file or directory",
        ),
        ("--events empty ok.py", "cannot write events to 'empty': not an ordinary file"),
        ("--events fifo ok.py", "cannot write events to 'fifo': not an ordinary file"),
        ("--events /dev/null ok.py", "cannot write events to '/dev/null': not an ordinary file"),
        ("--policy sometimes ok.py", "'sometimes' is not one of 'observe', 'wait', 'raise'"),
        ("--wait soon ok.py", "'soon' is not a valid float"),
        ("--wait -1 ok.py", "-1.0 is not in the range"),
        ("--wait nan ok.py", "nan is not a length of time"),
        ("--hang-after 0 ok.py", "0.0 is not in the range"),
        ("--on-hang shrug ok.py", "'shrug' is not one of 'report', 'kill'"),
        ("--nonsense ok.py", "--nonsense"),
    ],
)
def test_what_cannot_run_is_one_line_and_is_not_run(run: Run, folder: Path, line: str, says: str) -> None:
    ended = run(*FORKPROOF, "run", *line.split(), cwd=folder)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("forkproof: ")
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "; " in ended.stderr or "name " in ended.stderr or "needs" in ended.stderr  # and what to do
    assert not (folder / "it-ran").exists()


@pytest.mark.parametrize(
    "line", ["ok.py", "-m ok", "-m pack.module", "runnable", "-- ok.py", "--no-repair --wait 0 ok.py"]
)
def test_what_can_run_is_run(run: Run, folder: Path, line: str) -> None:
    """The other half of the test above: its programs do tell."""
    ended = run(*FORKPROOF, "run", *line.split(), cwd=folder)
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")
    assert (folder / "it-ran").exists()


def test_a_script_that_may_not_be_read(run: Run, folder: Path) -> None:
    (folder / "ok.py").chmod(0)
    if os.access(folder / "ok.py", os.R_OK):
        pytest.skip("this user may read everything")
    ended = run(*FORKPROOF, "run", "ok.py", cwd=folder)
    assert (ended.status, ended.stderr) == (
        2,
        "forkproof: cannot read 'ok.py'; allow it, or run as a user who may\n",
    )


def test_a_command_is_not_a_script_but_can_be_found(run: Run, folder: Path) -> None:
    command = folder / "serve"
    command.write_text(f"#!{sys.executable}\nopen('it-ran', 'w').close()\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    (folder / "elsewhere").mkdir()
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    ended = run(*FORKPROOF, "run", "serve", cwd=folder / "elsewhere", env=path)
    assert (
        ended.stderr == f"forkproof: no such script: 'serve'; to run that command, give its path: {command}\n"
    )


def test_packages_are_looked_up_without_running_them(run: Run, folder: Path) -> None:
    """But one that changes its own path can only be judged by running it: that is left to python."""
    (folder / "pack" / "__init__.py").write_text("__path__.append('elsewhere')\n")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "far.py").write_text("print('found')\n")
    assert run(*FORKPROOF, "run", "-m", "pack.far", cwd=folder).stdout == "found\n"
    ended = run(*FORKPROOF, "run", "-m", "pack.nope", cwd=folder)
    plain = run("-m", "pack.nope", cwd=folder)
    assert (ended.status, ended.stderr) == (plain.status, plain.stderr)


@pytest.mark.parametrize("option", ["-I", "-E"])
def test_options_that_keep_forkproof_out_are_refused(run: Run, folder: Path, option: str) -> None:
    ended = run(option, *FORKPROOF, "run", "ok.py", cwd=folder)
    if "No module named" in ended.stderr:
        pytest.skip("forkproof itself is only found through what this option turns off")
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert "-S, -E and -I keep forkproof out of the program; leave them out" in ended.stderr
    assert not (folder / "it-ran").exists()


def test_without_click_and_rich_one_line_says_what_to_install(run: Run, folder: Path) -> None:
    (folder / "forkproof").symlink_to(PACKAGE)
    ended = run("-S", *FORKPROOF, "run", "ok.py", cwd=folder)  # -S: no site-packages, so neither is there
    assert (ended.status, ended.stderr) == (
        2,
        "forkproof: the commands need click and rich; install them with: pip install 'forkproof[cli]'\n",
    )


def older_pythons() -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [shutil.which(f"python3.{minor}") for minor in range(8, 11)]
    found += [str(path) for minor in range(8, 11) for path in pyenv.glob(f"3.{minor}.*/bin/python3")]
    return [path for path in found if path and "shims" not in path]


@pytest.mark.parametrize("python", older_pythons() or [None])
def test_an_older_python_is_told_so(run: Run, folder: Path, python: str | None) -> None:
    if python is None:
        pytest.skip("no older Python here")
    (folder / "forkproof").symlink_to(PACKAGE)
    ended = run("-B", *FORKPROOF, "run", "ok.py", cwd=folder, command=python)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert "needs CPython 3.11 or later, and this is cpython 3." in ended.stderr


@pytest.mark.parametrize(
    ("pretend", "says"),
    [
        ("import os; del os.fork; sys.platform = 'win32'", "win32 has no fork()"),
        ("import types; sys.implementation = types.SimpleNamespace(name='pypy')", "this is pypy 3."),
    ],
)
def test_an_interpreter_that_cannot_is_told_so(run: Run, folder: Path, pretend: str, says: str) -> None:
    """Neither is at hand, so one that can is made to look like it."""
    code = f"import sys; from forkproof.__main__ import main; {pretend}; sys.exit(main())"
    ended = run("-c", code, "run", "ok.py", cwd=folder)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert says in ended.stderr
    assert not (folder / "it-ran").exists()


@pytest.mark.parametrize(
    "line", ["--help", "run --help", "report --help", "verify --help", "demo --help", "-h"]
)
def test_help_teaches(run: Run, line: str) -> None:
    ended = run(*FORKPROOF, *line.split())
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: forkproof")
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_help_shows_every_option_and_examples(run: Run) -> None:
    text = run(*FORKPROOF, "run", "--help").stdout
    options = [
        "--policy",
        "--wait",
        "--no-repair",
        "--hang-after",
        "--on-hang",
        "--events",
        "--strict",
        "--emulate",
    ]
    options += ["--trace-lookups", "--keep-warnings"]
    assert [option for option in options if option not in text] == []
    assert "forkproof run --policy observe -m pytest -x tests" in text
    assert "forkproof run app.py" in run(*FORKPROOF, "--help").stdout


def test_the_command_is_installed(run: Run) -> None:
    command = Path(sys.executable).parent / "forkproof"
    if not command.exists():
        pytest.skip("forkproof is not installed in this environment")
    assert run("--version", command=str(command)).stdout == "forkproof 0.1.0\n"
    assert run("run", "-c", "print(1)", command=str(command)).stdout == "1\n"


# report


def test_report_shows_a_file_as_run_would_have(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(as_line(AT_RISK) + as_line(WAITED))
    ended = run(*FORKPROOF, "report", str(file))
    assert (ended.status, ended.stderr) == (0, "")
    assert "fork 1 (4242 → 4243) went ahead at risk" in ended.stdout
    assert ended.stdout.endswith("forkproof: 2 forks, 1 at risk, 1 waited (median 4.1 ms, max 4.1 ms)\n")
    assert run(*FORKPROOF, "report", "-", stdin=file.read_text()).stdout == ended.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "forkproof: 0 forks\n"),
        (b'{"v":1,"event":"fork",', "forkproof: 1 of 1 lines left out: 1 cut off (line 1 is not JSON)\n"),
        (
            b"\x00\xff\n[]\n",
            "2 of 2 lines left out: 1 damaged (line 1 is not JSON), 1 foreign (line 2 is not an event",
        ),
        (as_line(AT_RISK)[:-9], "1 cut off"),
        (
            json.dumps({**AT_RISK.to_json(), "pid": "x"}).encode(),
            "fork.pid: a whole number expected, not 'x'",
        ),
    ],
)
def test_report_of_a_bad_file_is_no_traceback(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    ended = run(*FORKPROOF, "report", "bad.jsonl", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert says in ended.stdout


@pytest.mark.parametrize("line", ["report", "report nope.jsonl", "report .", "nonsense", "--nonsense"])
def test_other_mistakes_are_one_line_too(run: Run, tmp_path: Path, line: str) -> None:
    ended = run(*FORKPROOF, *line.split(), cwd=tmp_path)
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("forkproof: ")


def test_report_into_a_closed_pipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(as_line(AT_RISK))
    shell = f"{sys.executable} -m forkproof report e.jsonl | true; echo done"
    for _ in range(3):
        ended = run("-c", shell, command="/bin/sh", cwd=tmp_path)
        assert (ended.stdout, ended.stderr) == ("done\n", "")
