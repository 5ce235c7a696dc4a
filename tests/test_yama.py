"""Yama's ptrace_scope 1: a process may look at its descendants, and at those that have named it or a forebear of it.

The kernel's own module is not everywhere, and is its machine's to set. So a library in front of the C library's calls refuses what it
would (security/yama/yama_lsm.c, yama_ptrace_access_check), by the kernel's own parents and by what each process has named. What the
kernel itself says is tried by experiments/yama.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import pytest
from conftest import Run
from doctoring import PRELUDE
from test_doctor_outside import FORKS_WITH_THE_GIL, HOLDS_THE_GIL

YAMA = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static FILE *(*real_fopen)(const char *, const char *);

static long field(long pid, const char *name) {
    char path[64], line[256];
    long value = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", pid);
    if (!real_fopen) real_fopen = dlsym(RTLD_NEXT, "fopen");
    FILE *file = real_fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name))) value = atol(line + strlen(name));
    if (file) fclose(file);
    return value;
}

static int is_descendant(long of, long pid) {
    for (; pid > 0; pid = field(pid, "PPid:"))
        if (pid == of) return 1;
    return 0;
}

static const char *named_by(long pid) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%ld", getenv("YAMA"), pid);
    return path;
}

static int may(long tid) {
    long named = 0, pid = field(tid, "Tgid:");
    if (!pid) return 1;
    if (!real_fopen) real_fopen = dlsym(RTLD_NEXT, "fopen");
    FILE *file = real_fopen(named_by(pid), "r");
    if (file && fscanf(file, "%ld", &named) != 1) named = 0;
    if (file) fclose(file);
    return is_descendant(getpid(), pid) || (named && is_descendant(named, getpid()));
}

static const char *seen(const char *path) {
    static char setting[512];
    char what[16];
    long pid;
    if (!strcmp(path, "/proc/sys/kernel/yama/ptrace_scope")) {
        snprintf(setting, sizeof setting, "%s/scope", getenv("YAMA"));
        return setting;
    }
    if (sscanf(path, "/proc/%ld/%15s", &pid, what) == 2 && (!strcmp(what, "mem") || !strcmp(what, "syscall")) && !may(pid)) {
        errno = EACCES;
        return NULL;
    }
    return path;
}

#define OPEN(name)                                             \
    int name(const char *path, int flags, ...) {               \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
        va_list more;                                          \
        va_start(more, flags);                                 \
        int mode = va_arg(more, int);                          \
        va_end(more);                                          \
        return (path = seen(path)) ? real(path, flags, mode) : -1; \
    }
OPEN(open)
OPEN(open64)

FILE *fopen64(const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, "fopen64");
    return (path = seen(path)) ? real(path, mode) : NULL;
}

long syscall(long number, ...) {
    long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall"), a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (number == SYS_process_vm_readv && !may(a[0])) {
        errno = EPERM;
        return -1;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

ssize_t process_vm_readv(pid_t pid, const void *l, unsigned long n, const void *r, unsigned long m, unsigned long flags) {
    return syscall(SYS_process_vm_readv, (long)pid, l, n, r, m, flags);
}

long ptrace(enum __ptrace_request request, ...) {
    long (*real)(int, ...) = dlsym(RTLD_NEXT, "ptrace"), a[3];
    va_list more;
    va_start(more, request);
    for (int i = 0; i < 3; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (request == PTRACE_ATTACH && !may(a[0])) {
        errno = EPERM;
        return -1;
    }
    return real(request, a[0], a[1], a[2]);
}

int prctl(int option, ...) {
    int (*real)(int, ...) = dlsym(RTLD_NEXT, "prctl");
    unsigned long a[4];
    va_list more;
    va_start(more, option);
    for (int i = 0; i < 4; i++) a[i] = va_arg(more, unsigned long);
    va_end(more);
    int answer = real(option, a[0], a[1], a[2], a[3]);
    if (option != 0x59616d61) return answer; /* PR_SET_PTRACER */
    FILE *file = real_fopen ? real_fopen(named_by(getpid()), "w") : (real_fopen = dlsym(RTLD_NEXT, "fopen"))(named_by(getpid()), "w");
    if (file) fprintf(file, "%ld", a[0]);
    if (file) fclose(file);
    return 0;
}
"""

# Without the capability that Yama does not keep out, where this is root.
ORDINARY = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 19, 0, 0, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


@pytest.fixture
def yama(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that lives under ptrace_scope 1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    folder = tmp_path / "yama"
    folder.mkdir()
    (folder / "scope").write_text("1\n")
    (folder / "yama.c").write_text(YAMA)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", "libyama.so", "yama.c", "-ldl"], cwd=folder, check=True
    )
    return {"LD_PRELOAD": str(folder / "libyama.so"), "YAMA": str(folder)}


def test_the_launcher_has_a_child_read_that_it_may_look_at_and_its_helpers_may_not(
    run: Run, tmp_path: Path, yama: dict[str, str]
) -> None:
    (tmp_path / "app.py").write_text(HOLDS_THE_GIL)
    options = ("--policy", "observe", "--hang-after", "1", "--on-hang", "kill", "--events", "events.jsonl")
    ended = run(
        "-c", ORDINARY, "-m", "forkproof", "run", *options, "app.py", cwd=tmp_path, env=yama, limit=60
    )
    child, _ = map(int, ended.stdout.split())
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (hang,) = [event for event in events if event["event"] == "hang"]
    assert (hang["pid"], hang["verdict"], hang["proof"]) == (child, "proven", "owner")


NAMES = """
import os, sys
from forkproof import _native
from forkproof.doctor.process import started
named = lambda: open(path).read() if os.path.exists(path := f"{os.environ['YAMA']}/{os.getpid()}") else None
def in_a_child():
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, repr(named()).encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 100).decode()
_native.name_reader(os.getppid(), started(os.getppid()) + 1)
print(named(), in_a_child())
_native.name_reader(os.getppid(), started(os.getppid()))
print(named() == str(os.getppid()), in_a_child() == repr(str(os.getppid())))
"""


def test_each_process_names_the_one_that_is_meant_and_no_other_of_its_id(
    run: Run, yama: dict[str, str]
) -> None:
    ended = run("-c", NAMES, env=yama)
    assert ended.stdout.splitlines() == ["None None", "True True"], ended.stderr


OWN = """
import ctypes, os
ctypes.CDLL(None).prctl(0x59616d61, os.getpid(), 0, 0, 0)
print(open(f"{os.environ['YAMA']}/{os.getpid()}").read() == str(os.getpid()))
"""


def test_what_a_program_names_itself_stands(run: Run, tmp_path: Path, yama: dict[str, str]) -> None:
    (tmp_path / "app.py").write_text(OWN)
    ended = run("-c", ORDINARY, "-m", "forkproof", "run", "app.py", cwd=tmp_path, env=yama)
    assert (ended.status, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_nothing_is_named_where_nothing_forbids(run: Run, tmp_path: Path, yama: dict[str, str]) -> None:
    (Path(yama["YAMA"]) / "scope").write_text("0\n")
    program = "import os; print(os.listdir(os.environ['YAMA']))"
    (tmp_path / "app.py").write_text(program)
    ended = run("-c", ORDINARY, "-m", "forkproof", "run", "app.py", cwd=tmp_path, env=yama)
    assert sorted(ast.literal_eval(ended.stdout)) == ["libyama.so", "scope", "yama.c"]


# A program that hangs, beside a thread that sleeps: by its stacks alone that is seen.
HANGS = (
    PRELUDE
    + """
def waits():
    thread(time.sleep, 1000)
    with lock: pass
lock = threading.Lock()
hold(lock)
child(waits)
"""
)
# As a shell's `app & exec forkproof ...`.
ANCESTOR = """
import os, subprocess, sys, time
program = subprocess.Popen([sys.executable, "app.py"], stdout=subprocess.PIPE, text=True)
child = int(program.stdout.readline())
command = [word.replace("PID", str(program.pid)).replace("CHILD", str(child)) for word in sys.argv[1:]]
os.execv(sys.executable, [sys.executable, "-m", "forkproof", *command])
"""
ADVICE = "sudo sysctl kernel.yama.ptrace_scope=0"


OF_ITS_OWN = [
    ("doctor", "CHILD"),
    ("doctor", "--tree", "PID"),
    ("doctor", "--tree", "--watch", "PID"),
    ("watch", "PID"),
    ("watch", "--once", "--hang-after", "1", "PID"),
]


@pytest.mark.parametrize("command", OF_ITS_OWN)
def test_a_look_at_its_own_descendants(
    run: Run, tmp_path: Path, yama: dict[str, str], command: tuple[str, ...]
) -> None:
    (tmp_path / "app.py").write_text(HANGS)
    ended = run("-c", ORDINARY, "-c", ANCESTOR, *command, cwd=tmp_path, env=yama, hangs=True)
    assert (ended.timed_out, ended.status) == (False, 2)
    assert "to its ancestors only, not to the process that reads for one" in ended.stderr
    assert ADVICE in ended.stderr


def test_a_program_that_lets_everybody_look(run: Run, tmp_path: Path, yama: dict[str, str]) -> None:
    """As one does that is to be debugged: PR_SET_PTRACER with the id of a forebear of the doctor."""
    named = "import ctypes; ctypes.CDLL(None).prctl(0x59616d61, doctor, 0, 0, 0)\n"
    (tmp_path / "app.py").write_text(
        "import os; doctor = os.getppid()\n"
        + HANGS.replace("    with lock: pass", f"    {named}    with lock: pass")
    )
    ended = run("-c", ORDINARY, "-c", ANCESTOR, "doctor", "CHILD", cwd=tmp_path, env=yama, hangs=True)
    assert (ended.timed_out, ended.status) == (False, 0), ended.stderr
    assert "waits for the lock 'lock'" in ended.stdout


# Its child names nobody.
LETS_IN = """
import ctypes, os, time
if os.fork():
    ctypes.CDLL(None).prctl(0x59616d61, os.getppid(), 0, 0, 0)
    print(flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("command", [("doctor", "--tree", "--watch"), ("watch",)])
def test_a_process_that_may_not_be_looked_at_is_told_once_and_the_others_go_on_being_watched(
    yama: dict[str, str], command: tuple[str, ...]
) -> None:
    environment = os.environ | yama
    beside = [sys.executable, "-c", ORDINARY, "-c", LETS_IN]
    with subprocess.Popen(beside, stdout=subprocess.PIPE, env=environment, start_new_session=True) as program:
        assert program.stdout
        program.stdout.readline()
        line = [sys.executable, "-c", ORDINARY, "-m", "forkproof", *command, str(program.pid)]
        with subprocess.Popen(line, stderr=subprocess.PIPE, env=environment, text=True) as watch:
            assert watch.stderr
            told = ""
            while "Yama" not in told and (more := watch.stderr.readline()):
                told += more
            time.sleep(2.5)  # for more looks
            os.killpg(program.pid, signal.SIGKILL)
            told += watch.communicate(timeout=30)[1]
    assert watch.returncode == 0, told
    assert told.count("Yama allows it for descendants only") == 1


@pytest.mark.parametrize("command", [("doctor",), ("doctor", "--tree", "--watch"), ("watch",)])
def test_others_are_told_what_to_allow(run: Run, yama: dict[str, str], command: tuple[str, ...]) -> None:
    beside = [sys.executable, "-c", ORDINARY, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(beside, stdin=subprocess.PIPE) as program:
        ended = run("-c", ORDINARY, "-m", "forkproof", *command, str(program.pid), env=yama)
        assert program.stdin
        program.stdin.close()
    assert ended.status == 2
    assert "Yama allows it for descendants only" in ended.stderr
    assert ADVICE in ended.stderr


TESTS = "def test_it():\n" + indent(FORKS_WITH_THE_GIL + "assert os.waitpid(pid, 0)[1]\n", "    ")


def test_the_limit_of_a_childs_life_in_tests(run: Run, tmp_path: Path, yama: dict[str, str]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nforkproof_child_limit = 3\nforkproof_policy = observe\n")
    options = ("-m", "pytest", "-p", "no:cacheprovider", "--forkproof")
    ended = run("-c", ORDINARY, *options, cwd=tmp_path, env=yama, limit=60)
    assert "waits for: a normal mutex" in ended.stdout
    assert "proven (by owner)" in ended.stdout
