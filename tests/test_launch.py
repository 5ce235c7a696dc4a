"""`forkproof run` runs a program exactly as python does: the same program both ways, compared."""

from __future__ import annotations

import json
import marshal
import os
import re
import signal
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Ended, Run, Start
from test_model import schema

from forkproof import lab, launch
from forkproof.launch import launcher
from forkproof.model import Born, Event, Fork, event_from_json

FORKPROOF = ("-m", "forkproof", "run")

WHO_AM_I = """
import json, os, sys, __main__
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "names": sorted(vars(__main__)),
    "name": __main__.__name__,
    "file": getattr(__main__, "__file__", None),
    "package": __main__.__package__,
    "spec": repr(__main__.__spec__).partition(" object at ")[0],
    "loader": repr(__main__.__loader__).partition(" object at ")[0],
    "orig_argv": sys.orig_argv,
    "executable": sys.executable,
    "flags": repr(sys.flags),
    "warnoptions": sys.warnoptions,
    "xoptions": sys._xoptions,
    "environ": {k: v for k, v in os.environ.items() if k.startswith(("PYTHON", "_FORKPROOF"))},
    "cwd": os.getcwd(),
    "importers": [p for p in sys.path_importer_cache if "_start" in p],
    "sitecustomize": getattr(sys.modules.get("sitecustomize"), "__file__", None),
    "descriptors": sorted(fd for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")
                          and not os.path.realpath(f"/dev/fd/{fd}").endswith(".jsonl")),
    "mask": sorted(signal for signal in __import__("signal").pthread_sigmask(0, ())),
    "handlers": {s: repr(__import__("signal").getsignal(s)).partition(" at ")[0]
                 for s in __import__("signal").valid_signals()},
}, indent=1, default=str))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with programs in every form that python can run."""
    (tmp_path / "who.py").write_text(WHO_AM_I)
    package = tmp_path / "pack" / "age"
    package.mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("print('package')\n")
    (package / "__main__.py").write_text(WHO_AM_I)
    (package / "module.py").write_text(WHO_AM_I)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(WHO_AM_I)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", WHO_AM_I)
    return tmp_path


def both(
    run: Run,
    *args: str,
    cwd: Path,
    options: tuple[str, ...] = (),
    stdin: str = "",
    env: dict[str, str | None] | None = None,
) -> tuple[Ended, Ended]:
    """The program run by python, and by forkproof."""
    plain = run(*options, *args, cwd=cwd, stdin=stdin, env=env)
    watched = run(*options, *FORKPROOF, *args, cwd=cwd, stdin=stdin, env=env)
    return plain, watched


def assert_same(plain: Ended, watched: Ended) -> None:
    assert watched.stdout == plain.stdout
    assert watched.stderr == plain.stderr
    assert watched.status == plain.status


@pytest.mark.parametrize(
    "args",
    [
        ("who.py",),
        ("who.py", "a", "--policy", "raise", "-m", "--", "-c", "--help", ""),
        ("./who.py",),
        ("-m", "who", "--strict"),
        ("-mwho", "x"),
        ("-m", "pack.age", "a"),
        ("-m", "pack.age.module", "--events", "x"),
        ("-c", WHO_AM_I, "-c", "b"),
        ("-c" + WHO_AM_I,),
        ("-", "a", "--wait"),
        ("folder", "a"),
        ("archive.zip", "a"),
    ],
    ids=lambda args: " ".join(args)[:20],
)
def test_the_program_sees_what_it_sees_under_python(run: Run, folder: Path, args: tuple[str, ...]) -> None:
    plain, watched = both(run, *args, cwd=folder, stdin=WHO_AM_I)
    assert plain.status == 0
    assert plain.stdout
    assert_same(plain, watched)


@pytest.mark.parametrize(
    "options",
    [
        ("-X", "dev"),
        ("-W", "error", "-W", "ignore::DeprecationWarning"),
        ("-O", "-B", "-q", "-s"),
        ("-X", "utf8", "-X", "int_max_str_digits=0", "-X", "no_debug_ranges"),
        ("-P", "-bb"),
        ("-u",),
    ],
    ids=" ".join,
)
def test_pythons_own_options_reach_the_program(run: Run, folder: Path, options: tuple[str, ...]) -> None:
    plain, watched = both(run, "who.py", cwd=folder, options=options)
    assert plain.status == watched.status == 0
    told, wanted = json.loads(watched.stdout), json.loads(plain.stdout)
    # The order and the spelling of options that mean the same may differ.
    assert sorted("".join(told.pop("orig_argv"))) == sorted("".join(wanted.pop("orig_argv")))
    assert told == wanted


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('told why')", 1),
        ("import os; os._exit(7)", 7),
        (
            "def f():\n    1/0\ntry:\n    f()\nexcept ZeroDivisionError as e:\n    raise KeyError from e",
            1,
        ),
        ("raise ExceptionGroup('many', [ValueError(1), TypeError(2)])", 1),
        ("a = [\n", 1),
        ("import nowhere_to_be_found", 1),
        ("import threading; t = threading.Thread(target=lambda: 1/0, name='t'); t.start(); t.join()", 0),
        ("import warnings; warnings.warn('careful')", 0),
        ("import sys; print('out'); print('err', file=sys.stderr); raise SystemExit(300)", 44),
        ("import os; os.close(1); print(1)", 120),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)", -(signal.SIGRTMIN + 3)),
    ],
)
def test_it_ends_as_it_ends_under_python(run: Run, tmp_path: Path, code: str, status: int) -> None:
    (tmp_path / "program.py").write_text(code)
    plain, watched = both(run, "program.py", cwd=tmp_path)
    assert plain.status == status
    assert_same(plain, watched)


def test_stdin_is_the_programs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text("import sys\nprint(input())\nprint(sys.stdin.read())")
    plain, watched = both(run, "echo.py", cwd=tmp_path, stdin="first\nsecond\nthird")
    assert plain.stdout == "first\nsecond\nthird\n"
    assert_same(plain, watched)


def test_a_tracing_program_sees_no_frame_of_forkproof(run: Run, tmp_path: Path) -> None:
    code = "import inspect, traceback; print([f.filename for f in inspect.stack()]); traceback.print_stack()"
    (tmp_path / "program.py").write_text(code)
    assert_same(*both(run, "program.py", cwd=tmp_path))


def test_what_programs_import_in_threads_is_not_imported_before(run: Run, tmp_path: Path) -> None:
    """An import that Forkproof makes first is an import hazard of the program's that it hides."""
    (tmp_path / "modules.py").write_text("import sys; print(*sorted(sys.modules), sep='\\n')")
    plain, watched = both(run, "modules.py", cwd=tmp_path)
    added = set(watched.stdout.split()) - set(plain.stdout.split())
    assert "forkproof" in added
    theirs = """
        _strptime asyncio click concurrent ctypes dataclasses datetime decimal email fractions getpass hashlib
        http inspect linecache logging multiprocessing pickle queue random rich select selectors signal socket
        sqlite3 ssl stringprep subprocess tempfile tomllib traceback typing unicodedata urllib uuid
    """
    assert {name.partition(".")[0] for name in added} & set(theirs.split()) == set()
    assert "encodings.idna" not in added


# The environment's own customisations, and its PYTHONPATH.


@pytest.mark.parametrize("former", [None, "", "elsewhere", "elsewhere:", "/nowhere:elsewhere"])
def test_pythonpath_is_given_back(run: Run, folder: Path, former: str | None) -> None:
    (folder / "elsewhere").mkdir()
    assert_same(*both(run, "who.py", cwd=folder, env={"PYTHONPATH": former}))


@pytest.mark.parametrize(
    "custom",
    [
        "import sys; print('custom', __name__, __file__, sys.path[:2])",
        "raise ImportError('mine', name='other')",
        "raise ImportError('absent', name='sitecustomize')",
        "raise ValueError('in sitecustomize')",
        "import sys; sys.path.append('/added'); sys.argv_was = getattr(sys, 'argv', None)",
    ],
)
def test_the_environments_own_sitecustomize_runs(run: Run, folder: Path, custom: str) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(custom)
    (folder / "site" / "usercustomize.py").write_text("print('user')")
    env: dict[str, str | None] = {"PYTHONPATH": str(folder / "site")}
    plain, watched = both(run, "who.py", cwd=folder, env=env)
    # The launcher is a python too, in the same environment, and its customisations fail as well.
    assert watched.stderr == run("-c", "", env=env).stderr + plain.stderr
    assert (watched.stdout, watched.status) == (plain.stdout, plain.status)


def test_a_program_that_forkproof_runs_can_itself_run_forkproof(run: Run, folder: Path) -> None:
    plain = run("who.py", cwd=folder)
    nested = run(*FORKPROOF, *FORKPROOF, "who.py", cwd=folder)
    assert_same(plain, nested)


def test_programs_that_the_program_starts_are_plain_python(run: Run, folder: Path) -> None:
    (folder / "starts.py").write_text("import subprocess, sys; subprocess.run([sys.executable, 'who.py'])")
    plain, watched = both(run, "starts.py", cwd=folder)
    assert_same(plain, watched)
    assert "forkproof" not in run(*FORKPROOF, "-c", "import os; print(os.environ)", env={"PWD": None}).stdout


# A program that replaces itself.

# Forks, then starts itself anew, until it has done so three times; tells what it sees each time.
AGAIN = """
import json, os, sys
assert "forkproof" in sys.modules or os.environ.get("PLAIN")
if os.fork() == 0:
    os._exit(0)
os.wait()
shown = {k: v for k, v in os.environ.items() if k.startswith(("PYTHON", "_FORKPROOF"))}
print(sys.argv[1:], shown, sys.path, os.getpid() == int(os.environ.get("WAS", os.getpid())), flush=True)
if len(sys.argv) < 4:
    os.environ["WAS"] = str(os.getpid())
    HOW
"""
WAYS = {
    "execv": "os.execv(sys.executable, [sys.executable, *sys.argv, 'x'])",
    "execv, putenv": "os.putenv('PYTHONPATH', '/else'); os.execv(sys.executable, [sys.executable, *sys.argv, 'x'])",
    "execl": "os.execl(sys.executable, sys.executable, '-u', '-W', 'error', *sys.argv, 'x')",
    "execve, os.environ": "os.execve(sys.executable, [sys.executable, *sys.argv, 'x'], os.environ)",
    "execve, a dict": "os.execve(sys.executable, [sys.executable, *sys.argv, 'x'], {**os.environ, 'PYTHONPATH': 'a:b'})",
    "execve, bytes": "os.execve(os.fsencode(sys.executable), [*map(os.fsencode, [sys.executable, *sys.argv]), b'x'], dict(os.environb))",
    "execve, descriptor": "os.execve(os.open(sys.executable, 0), [sys.executable, *sys.argv, 'x'], os.environ)",
    "execvpe": "os.environ['PATH'] = '/nowhere:' + os.path.dirname(sys.executable);"
               "os.execvpe(os.path.basename(sys.executable), [sys.executable, *sys.argv, 'x'], os.environ)",
    "a script": "os.execv(sys.argv[0], [*sys.argv, 'x'])",
}  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_a_program_that_replaces_itself_goes_on_being_watched(run: Run, tmp_path: Path, how: str) -> None:
    script = tmp_path / "again.py"
    script.write_text(f"#!{sys.executable}\n" + AGAIN.replace("HOW", WAYS[how]))
    script.chmod(0o755)
    plain = run(script, cwd=tmp_path, env={"PLAIN": "1"})
    watched = run(*FORKPROOF, "--events", "events.jsonl", script, cwd=tmp_path)
    assert plain.stdout.count("\n") == 4
    assert_same(plain, watched)
    events = validated(tmp_path / "events.jsonl")
    forks = [event for event in events if isinstance(event, Fork)]
    assert [fork.fork for fork in forks] == [1, 2, 3, 4]
    assert len({fork.pid for fork in forks}) == 1
    assert sorted(event.fork for event in events if isinstance(event, Born)) == [1, 2, 3, 4]


@pytest.mark.parametrize("options", ["-I", "-E", "-S", "-sE", "-bI", "-Xdev -S", "-W error -I", "-X dev -E"])
def test_a_program_that_replaces_itself_by_one_out_of_reach_is_left_alone(
    run: Run, folder: Path, options: str
) -> None:
    code = f"import os, sys; os.execv(sys.executable, [sys.executable, *'{options}'.split(), 'who.py'])"
    assert_same(*both(run, "-c", code, cwd=folder))


def test_the_interpreter_is_the_one_that_runs_and_not_what_its_name_finds(run: Run, folder: Path) -> None:
    """sys.executable is what argv[0] finds on PATH; what is there may be anything."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text("#!/bin/sh\nenv\n")
    (folder / "bin" / "python").chmod(0o755)
    code = f"""
import os, sys
os.environ["PATH"] = {str(folder / "bin")!r} + ":" + os.environ["PATH"]
again = "import os, sys; print(sys.executable, flush=True); os.execv(sys.executable, [sys.executable])"
os.execl(sys.executable, "python", "-c", again)
"""
    plain, watched = both(run, "-c", code, cwd=folder)
    assert str(folder / "bin" / "python") in plain.stdout
    assert_same(plain, watched)


@pytest.mark.parametrize("name", ["env", "script", "script for env"])
def test_another_program_in_the_place_of_this_one_sees_its_own_environment(
    run: Run, folder: Path, name: str
) -> None:
    (folder / "script").write_text("#!/bin/sh\nenv\n")
    (folder / "script").chmod(0o755)
    what = {
        "env": "'env', ['env']",
        "script": "'./script', ['-I']",
        "script for env": "'/usr/bin/env', ['env', 'env']",
    }
    plain, watched = both(run, "-c", f"import os; os.execvp({what[name]})", cwd=folder)
    assert "PATH=" in plain.stdout
    assert_same(plain, watched)


def test_an_exec_that_fails_or_is_refused_leaves_everything_as_it_was(run: Run, folder: Path) -> None:
    code = """
import os, sys, subprocess
def refuse(event, arguments):
    if event == "os.exec" and "refused" in arguments[1]:
        raise RuntimeError("refused")
sys.addaudithook(refuse)
mine = {"A": "1"}
for path, arguments in (
    (sys.executable, ["x" * 5_000_000]), (sys.executable, [sys.executable, "refused"]),
    (sys.executable, []), (sys.executable, ["a" + chr(0)]), ("nowhere", ["x"]), (".", ["x"]), ("who.py", ["x"]),
):
    for call in (lambda: os.execv(path, arguments), lambda: os.execve(path, arguments, mine)):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error, mine, len(os.environ), flush=True)
    subprocess.run(["env"])
"""
    plain, watched = both(run, "-c", code, cwd=folder)
    assert plain.stdout.count("RuntimeError refused") == 2
    assert_same(plain, watched)


def test_a_child_that_becomes_a_python_program_is_watched(run: Run, tmp_path: Path) -> None:
    code = """
import os, sys
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, "-c", "import os; os.fork() or os._exit(0); os.wait()"])
os.wait()
"""
    ended = run(*FORKPROOF, "--events", tmp_path / "events.jsonl", "-c", code)
    assert (ended.status, ended.stderr) == (0, "")
    first, second = (event for event in validated(tmp_path / "events.jsonl") if isinstance(event, Fork))
    assert (first.fork, second.fork) == (1, 2)
    assert first.pid != second.pid


# Descriptors.


def test_inherited_descriptors_are_the_programs_alone(start: Start) -> None:
    """A reader of a pipe sees its end when the program closes it, not when the program ends."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    code = "import os, sys; fd = int(sys.argv[1]); os.write(fd, b'x'); input(); os.close(fd); input()"
    with (
        open(reading, "rb", buffering=0) as pipe,
        start(*FORKPROOF, "-c", code, str(writing), pass_fds=[writing]) as program,
    ):
        os.close(writing)
        program.until(lambda: pipe.read() == b"x")
        program.say("close it")
        program.until(lambda: pipe.read() == b"")  # the end; None would be: not yet
        assert program.process.poll() is None
        program.say("end")
        assert program.end() == 0


def test_standard_output_ends_when_the_program_closes_it(start: Start) -> None:
    with start(*FORKPROOF, "-c", "import os; print('x', flush=True); os.close(1); input()") as program:
        assert program.line() == "x"
        assert program.line() == ""
        assert program.process.poll() is None
        program.say("")
        program.end()


# Signals.

# Counts what the system delivers: python itself calls a handler once for two that come close together.
COUNTS = """
import os, signal
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "TTIN"):
    signal.signal(getattr(signal, "SIG" + name), lambda *_: None)
print("ready", flush=True)
got = []
while signal.SIGUSR2 not in got:
    got += os.read(reading, 100)  # two that came together are handled together, in either order
print("got", *sorted(signal.Signals(signum).name for signum in got), flush=True)
"""


def passed_on(launcher: int, signum: int) -> bool:
    """Whether the launcher is done with a signal that it was sent: only then does it take another."""
    (mask,) = re.findall(r"^ShdPnd:\s*(\S+)$", Path(f"/proc/{launcher}/status").read_text(), re.M)
    return not int(mask, 16) >> (signum - 1) & 1


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "WINCH", "TTIN"])
@pytest.mark.parametrize("to_group", [True, False], ids=["group", "launcher"])
def test_a_signal_arrives_exactly_once(start: Start, name: str, to_group: bool) -> None:
    signum = signal.Signals[f"SIG{name}"]
    with start(*FORKPROOF, "-c", COUNTS) as program:
        assert program.line() == "ready"
        (os.killpg if to_group else os.kill)(program.pid, signum)
        program.until(lambda: passed_on(program.pid, signum))
        os.kill(program.pid, signal.SIGUSR2)  # and so what comes of the first has come when this comes
        assert program.line().split() == ["got", *sorted(["SIGUSR2", f"SIG{name}"])]
        assert program.end() == 0


def test_ctrl_c_on_a_terminal_interrupts_once(start: Start, terminal: tuple[int, int]) -> None:
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    ours, theirs = terminal
    with start("-c", take_terminal, *FORKPROOF, "-c", COUNTS, stdin=theirs) as program:
        os.close(theirs)
        assert program.line() == "ready"
        os.write(ours, b"\x03")
        program.until(lambda: os.read(ours, 1) == b"C")  # ^C was echoed, so the signal was sent
        program.until(lambda: passed_on(program.pid, signal.SIGINT))
        os.kill(program.pid, signal.SIGUSR2)
        assert program.line() == "got SIGINT SIGUSR2"
        assert program.end() == 0


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "ALRM"])
def test_a_deadly_signal_to_the_launcher_ends_both_by_it(start: Start, name: str) -> None:
    if signal.getsignal(signal.Signals[f"SIG{name}"]) is signal.SIG_IGN:
        pytest.skip("ignored here (nohup), and so in the program")
    code = "from signal import *; signal(SIGINT, SIG_DFL); print('ready', flush=True); pause()"
    with start(*FORKPROOF, "-c", code) as program:
        assert program.line() == "ready"
        os.kill(program.pid, signal.Signals[f"SIG{name}"])
        assert program.end() == -signal.Signals[f"SIG{name}"]
        assert program.line() == ""  # nobody has its output open any more


def test_an_ignored_signal_stays_ignored(run: Run, tmp_path: Path) -> None:
    """As in `nohup`, or a shell's background jobs."""
    code = "import signal; print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP))"
    ignoring = f"trap '' INT HUP; exec {sys.executable} "
    plain = run("-c", f'{ignoring} -c "{code}"', command="/bin/sh")
    watched = run("-c", f'{ignoring} {" ".join(FORKPROOF)} -c "{code}"', command="/bin/sh")
    assert plain.stdout == "1 1\n"
    assert_same(plain, watched)


# Starts a program as a shell would: in a group of its own whose parent is outside, else no Ctrl-Z works.
SHELL = """
import subprocess, sys
program = subprocess.Popen(sys.argv[1:], process_group=0)
print(program.pid, flush=True)
program.wait()
"""


@pytest.mark.parametrize("to", ["launcher", "program", "group"])
@pytest.mark.parametrize("name", ["TSTP", "STOP", "TTIN"])
def test_the_launcher_stops_and_continues_with_the_program(start: Start, name: str, to: str) -> None:
    echo = "import os; print(os.getpid(), flush=True)\nwhile True: print(input(), flush=True)"
    with start("-c", SHELL, sys.executable, *FORKPROOF, "-c", echo) as program:
        launcher, pid = int(program.line()), int(program.line())
        target = {"launcher": launcher, "program": pid, "group": -launcher}[to]
        for said in ("once", "again"):
            os.kill(target, signal.Signals[f"SIG{name}"])
            if (name, to) != ("STOP", "launcher"):  # that one cannot be passed on
                program.until(lambda: (state(launcher), state(pid)) == ("T", "T"))
            os.kill(-launcher if to == "group" else launcher, signal.SIGCONT)
            program.say(said)
            assert program.line() == said
            program.until(lambda: state(launcher) == "S")


def test_a_stop_of_the_group_is_not_taken_for_a_later_one_of_the_launcher(start: Start) -> None:
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with start("-c", SHELL, sys.executable, *FORKPROOF, "-c", code) as program:
        launcher, pid = int(program.line()), int(program.line())
        for target in (-launcher, launcher, -launcher, launcher):
            os.kill(target, signal.SIGTSTP)
            program.until(lambda: (state(launcher), state(pid)) == ("T", "T"))
            os.kill(launcher, signal.SIGCONT)
            program.until(lambda: (state(launcher), state(pid)) == ("S", "S"))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_program_does_not_outlive_a_killed_launcher(start: Start) -> None:
    with start(
        *FORKPROOF, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    ) as program:
        pid = int(program.line())
        os.kill(program.pid, signal.SIGKILL)
        program.until(lambda: not Path(f"/proc/{pid}").exists() or state(pid) == "Z")


def test_a_child_that_lives_on_does_not_hold_the_launcher(run: Run) -> None:
    code = "import os, time; os.fork() or (time.sleep(60), os._exit(0)); print('parent done')"
    ended = run(*FORKPROOF, "-c", code, hangs=True, limit=20)
    assert (ended.status, ended.stdout, ended.timed_out) == (0, "parent done\n", False)


# The report and the events file.


def test_a_program_that_does_not_fork_is_not_spoken_about(run: Run) -> None:
    ended = run(*FORKPROOF, "-c", "pass")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")


def test_what_else_goes_wrong_is_not_said_of_the_events_file(tmp_path: Path) -> None:
    """As where /dev/fd is missing."""
    with pytest.raises(FileNotFoundError), launcher._events_file(str(tmp_path / "events.jsonl")):
        os.listdir(tmp_path / "not there")


def test_the_private_events_file_goes_away(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    code = "import os; print(len(os.listdir(os.environ['TMPDIR'])))"
    assert run(*FORKPROOF, "-c", code, env={"TMPDIR": str(tmp_path / "tmp")}).stdout == "1\n"
    assert os.listdir(tmp_path / "tmp") == []


def test_a_closed_stderr_does_not_reach_the_program(run: Run) -> None:
    ended = run("-c", f"{sys.executable} -m forkproof run -c 'print(1)' 2>&-", command="/bin/sh")
    assert (ended.status, ended.stdout) == (0, "1\n")


def test_a_fault_of_forkproof_leaves_the_program_alone(run: Run, folder: Path) -> None:
    """The bootstrap fails (its options are nonsense): one line, and the program as ever."""
    start = Path(launch.__file__).parent / "_start"
    plain = run("who.py", cwd=folder)
    broken = run(
        "who.py",
        cwd=folder,
        env={
            "PYTHONPATH": str(start),
            "_FORKPROOF_RUN": f"{sys.hexversion}:{marshal.dumps({'pythonpath': None, 'policy': 'nonsense'}).hex()}",
        },
    )
    assert (broken.stdout, broken.status) == (plain.stdout, plain.status)
    assert broken.stderr.startswith("forkproof: off, ")
    assert broken.stderr.count("\n") == 1


AT_RISK = """
import os, threading
lock, taken, done = threading.Lock(), threading.Event(), threading.Event()
def hold():
    with lock:
        taken.set()
        done.wait()
thread = threading.Thread(target=hold, name="holder")
thread.start()
taken.wait()
try:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
finally:
    done.set()
    thread.join()
"""


def validated(path: Path) -> list[Event]:
    """The events in a file, each of which is as published and as this version reads it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        schema().validate(line)
    return [event for line in lines if (event := event_from_json(line))]


@pytest.mark.parametrize(
    ("options", "outcome", "status"),
    [
        (["--policy", "observe"], "observed", 0),
        (["--wait", "0.05"], "gave-up", 0),
        (["--policy", "raise"], "refused", 1),
        (["--policy", "observe", "--strict"], "observed", 70),
        (["--policy", "raise", "--strict"], "refused", 1),
    ],
)
def test_a_fork_at_risk_is_recorded_reported_and_told_by_the_status(
    run: Run, tmp_path: Path, options: list[str], outcome: str, status: int
) -> None:
    (tmp_path / "risky.py").write_text(AT_RISK)
    (tmp_path / "events.jsonl").write_text("of an earlier run\n")
    ended = run(*FORKPROOF, *options, "--events", "events.jsonl", "risky.py", cwd=tmp_path)
    assert ended.status == status
    fork, *rest = (event for event in validated(tmp_path / "events.jsonl") if isinstance(event, Fork))
    assert (fork.outcome, fork.risk, rest) == (outcome, "certain", [])
    assert fork.fork == 1 or outcome == "refused"
    assert (os.path.basename(fork.where.file), fork.where.line) == ("risky.py", 12)
    hazard = next(hazard for hazard in fork.hazards if not hazard.cleared)
    assert (hazard.kind, hazard.certainty, hazard.what) == ("held-lock", "certain", "lock of risky.py")
    assert hazard.thread is not None
    assert hazard.thread.name == "holder"
    assert "risky.py:12 in <module>: fork " in ended.stderr
    assert "  holder held: lock of risky.py\n" in ended.stderr
    born = [event for event in validated(tmp_path / "events.jsonl") if isinstance(event, Born)]
    assert len(born) == (outcome != "refused")
    assert not born or f"fork 1 ({fork.pid} → {born[0].pid}) went ahead at risk" in ended.stderr


def test_strict_is_content_with_clean_forks_and_with_waiting(run: Run, tmp_path: Path) -> None:
    code = "import os; os.fork() or os._exit(0); os.wait()"
    ended = run(*FORKPROOF, "--strict", "--events", tmp_path / "events.jsonl", "-c", code)
    assert (ended.status, ended.stderr) == (0, "")
    fork, born = sorted(validated(tmp_path / "events.jsonl"), key=lambda event: event.event, reverse=True)
    assert isinstance(fork, Fork)
    assert isinstance(born, Born)
    assert (fork.risk, fork.outcome, fork.hazards) == ("none", "clear", ())
    assert (born.parent, born.fork) == (fork.pid, fork.fork)


def test_lines_of_many_processes_do_not_mix(run: Run, tmp_path: Path) -> None:
    code = """
import os
children = []
for _ in range(6):
    pid = os.fork()
    children = [*children, pid] if pid else []
for pid in children:
    os.waitpid(pid, 0)
"""
    ended = run(*FORKPROOF, "--events", tmp_path / "events.jsonl", "-c", code)
    assert (ended.status, ended.stderr) == (0, "")
    events = validated(tmp_path / "events.jsonl")
    assert [len([e for e in events if isinstance(e, kind)]) for kind in (Fork, Born)] == [63, 63]


ARTICLE = Path(lab.__file__).parent / "programs" / "article.py"


def test_the_article_hangs_observed_and_the_report_says_on_what(run: Run, tmp_path: Path) -> None:
    """How far the thread has come by the fork is chance: now and then nothing is held, and it finishes."""
    file = tmp_path / "events.jsonl"
    for _ in range(10):
        ended = run(*FORKPROOF, "--policy", "observe", "--events", file, ARTICLE, hangs=True, limit=3)
        if ended.timed_out and "held: import of encodings.idna" in ended.stderr:
            break
    assert ended.timed_out
    (fork,) = (event for event in validated(file) if isinstance(event, Fork))
    hazard = next(hazard for hazard in fork.hazards if hazard.what == "import of encodings.idna")
    assert (hazard.kind, hazard.certainty, hazard.cleared) == ("import-lock", "certain", False)
    assert [os.path.basename(frame.file) for frame in hazard.stack].count("socket.py") == 1
    assert "Thread-1 (lookup) held: import of encodings.idna\n" in ended.stderr
    assert re.search(r"at socket\.py:\d+ in getaddrinfo\n", ended.stderr)


def test_the_article_finishes_made_safe(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for _ in range(10):
        assert run(*FORKPROOF, "--events", file, ARTICLE, limit=10).status == 0
        assert [event.risk for event in validated(file) if isinstance(event, Fork)] == ["none"]
