"""The rest of the C library and of the interpreter: syslog, time, locale, loading, system(), stdio, malloc, waiting calls."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import locale
import os
import select
import signal
import socket
import sys
import syslog
import tempfile
import threading
import time
from typing import Any

from lab import KEEP, Forks, KeepsGil, row

LIBC = ctypes.CDLL(None)


@row("syslog.syslog / child: syslog", strace=("connect",), delay=10_000)
def _() -> Forks:
    syslog.openlog("experiment", 0, syslog.LOG_USER)
    return Forks(
        lambda: syslog.syslog(syslog.LOG_DEBUG, "x"), lambda: syslog.syslog(syslog.LOG_DEBUG, "x"), forks=100
    )


@row("syslog.syslog / child: openlog", strace=("connect",), delay=10_000)
def _() -> Forks:
    syslog.openlog("experiment", 0, syslog.LOG_USER)
    return Forks(lambda: syslog.syslog(syslog.LOG_DEBUG, "x"), lambda: syslog.openlog("other"), forks=100)


@row("syslog.syslog / child: setlogmask", strace=("connect",), delay=10_000)
def _() -> Forks:
    syslog.openlog("experiment", 0, syslog.LOG_USER)
    return Forks(lambda: syslog.syslog(syslog.LOG_DEBUG, "x"), lambda: syslog.setlogmask(255), forks=100)


@row("syslog.openlog and closelog", strace=("connect",), delay=50_000)
def _() -> KeepsGil:
    return KeepsGil(lambda: (syslog.openlog("x", syslog.LOG_NDELAY), syslog.closelog()))


@row("time.tzset", strace=("openat", "newfstatat"), path="/etc/localtime", delay=50_000)
def _() -> KeepsGil:
    os.environ.pop("TZ", None)
    return KeepsGil(time.tzset)


@row("time.localtime, strftime, mktime", strace=("newfstatat",), path="/etc/localtime", delay=50_000)
def _() -> KeepsGil:
    os.environ.pop("TZ", None)
    return KeepsGil(lambda: (time.strftime("%c %Z"), time.mktime(time.localtime())))


@row("time.localtime, strftime, mktime, busy")
def _() -> Forks:
    os.environ.pop("TZ", None)

    def call() -> None:
        time.tzset()
        time.mktime(time.localtime())
        time.strftime("%c %Z")

    return Forks(call, call, threads=2, forks=150)


@row("locale.setlocale", strace=("openat",), delay=50_000)
def _() -> KeepsGil:
    numbers = itertools.count()

    def call() -> None:  # a name that was not looked for before, so that the C library looks into files
        try:
            locale.setlocale(locale.LC_ALL, f"xx_{next(numbers)}.UTF-8")
        except locale.Error:
            pass

    return KeepsGil(call)


@row("os.putenv, setlocale, gettext, busy")
def _() -> Forks:
    import gettext

    def call() -> None:
        os.environ["FORKPROOF_EXPERIMENT"] = "1"
        locale.setlocale(locale.LC_ALL, "C")
        gettext.gettext("x")
        locale.localeconv()

    return Forks(call, call, threads=2, forks=150)


def _library(keep: list[str] = []) -> str:  # noqa: B006
    """A shared library with a constructor that takes 60 ms."""
    if not keep:
        import subprocess

        folder = tempfile.mkdtemp(dir=os.environ.get("SCRATCH"))
        with open(f"{folder}/slow.c", "w") as file:
            file.write(
                "#include <unistd.h>\n__attribute__((constructor)) static void slow(void) { usleep(60000); }\n"
            )
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", f"{folder}/slow.so", f"{folder}/slow.c"], check=True)
        keep.append(f"{folder}/slow.so")
    return keep[0]


def _load_and_unload() -> None:
    import _ctypes

    _ctypes.dlclose(_ctypes.dlopen(_library(), 1))


@row("ctypes dlopen")
def _() -> KeepsGil:
    return KeepsGil(_load_and_unload)


@row("ctypes dlopen, busy / child: dlopen", strace=("mmap",), delay=2_000)
def _() -> Forks:
    _library()
    return Forks(_load_and_unload, _load_and_unload, threads=2, forks=40)


@row("dlopen by a C library without the GIL / child: dlopen")
def _() -> Forks:
    """What libraries do that load plug-ins: here dlopen called through ctypes' foreign functions.

    Rarely a child does not hang but is aborted by the loader (seen once in 480), which finds its lists half-changed.
    """
    path = _library().encode()
    LIBC.dlopen.restype = ctypes.c_void_p
    LIBC.dlclose.argtypes = [ctypes.c_void_p]

    def call() -> None:
        handle = LIBC.dlopen(path, 1)
        assert handle
        LIBC.dlclose(handle)

    return Forks(call, call, threads=1, forks=60)


@row("dlopen by a C library without the GIL / child: import of an extension")
def _() -> Forks:
    path = _library().encode()
    LIBC.dlopen.restype = ctypes.c_void_p
    LIBC.dlclose.argtypes = [ctypes.c_void_p]

    def call() -> None:
        LIBC.dlclose(LIBC.dlopen(path, 1))

    def child() -> None:
        import _curses
        import _lzma
        import _zoneinfo

        assert _curses and _lzma and _zoneinfo

    return Forks(call, child, threads=1, forks=60)


@row("_imp.create_dynamic")
def _() -> KeepsGil:
    """dlopen of a file that is no extension module: its constructor runs, then the import fails."""
    import importlib.machinery
    import importlib.util
    import shutil

    numbers = itertools.count()

    def call() -> None:
        name = (
            f"slow{next(numbers)}"  # a library that is loaded already would be found without running anything
        )
        path = _library().replace("slow.so", name + ".so")
        shutil.copy(_library(), path)
        loader = importlib.machinery.ExtensionFileLoader(name, path)
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None
        try:
            importlib.util.module_from_spec(spec)
        except ImportError:
            pass

    return KeepsGil(call)


@row("os.system / child: os.system", strace=("rt_sigaction",), delay=2_000)
def _() -> Forks:
    return Forks(lambda: os.system("true"), lambda: os.system("true"), threads=2, forks=80)


@row("os.system / child: keeps SIGINT ignored", strace=())
def _() -> Forks:
    """Not a hang: the child fails if SIGINT and SIGQUIT are ignored in it after a system() of its own has ended."""

    def child() -> None:
        os.system("true")
        with open("/proc/self/status") as file:
            ignored = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
        assert not ignored & (1 << signal.SIGINT - 1), "SIGINT is ignored for ever"

    return Forks(lambda: os.system("sleep 0.05"), child, forks=20)


@row("subprocess, posix_spawn / child: the same")
def _() -> Forks:
    import subprocess

    def call() -> None:
        subprocess.run(["true"], check=False)
        os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)

    return Forks(call, call, threads=2, forks=40)


@row("C stdio, a thread blocked in fputs / child: the same FILE")
def _() -> Forks:
    r, w = os.pipe()
    LIBC.fdopen.restype = ctypes.c_void_p
    LIBC.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    LIBC.ftell.argtypes = [ctypes.c_void_p]
    stream = LIBC.fdopen(w, b"w")
    return Forks(lambda: LIBC.fputs(b"x" * 200_000, stream), lambda: LIBC.ftell(stream), blocks=True, forks=5)


@row("C stdio, a thread in fflush(NULL) / the fork itself")
def _() -> Forks | str:
    """fork() takes stdio's list lock, which fflush(NULL) holds: does the fork wait in the parent?"""
    r, w = os.pipe()
    LIBC.fdopen.restype = ctypes.c_void_p
    LIBC.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    LIBC.fflush.argtypes = [ctypes.c_void_p]
    stream = LIBC.fdopen(w, b"w")
    os.set_inheritable(r, True)
    os.set_blocking(w, False)
    try:
        while os.write(w, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(w, True)
    LIBC.fputs(b"hello", stream)
    threading.Thread(target=lambda: LIBC.fflush(None), daemon=True).start()
    time.sleep(0.3)
    begun = time.monotonic()
    # A fork that waits keeps the GIL, so only another process can empty the pipe.
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f"sleep 1; cat <&{r} >/dev/null & sleep 1; kill $!"], os.environ
    )
    child = os.fork()
    if child == 0:
        os._exit(0)
    took = time.monotonic() - begun
    os.waitpid(child, 0)
    os.waitpid(pid, 0)
    return f"os.fork took {took:.2f} s in the parent (the pipe is emptied after 1 s)"


@row("malloc, busy without the GIL")
def _() -> Forks:
    import bz2

    def hold() -> None:
        bz2.compress(b"x" * 200)

    def child() -> None:
        for _ in range(1000):
            bytearray(200_000)
        bz2.compress(b"x" * 1000)

    return Forks(hold, child, threads=3, forks=150)


@row("tracemalloc on, busy without the GIL")
def _() -> Forks:
    import bz2
    import tracemalloc

    tracemalloc.start()

    def hold() -> None:
        bz2.compress(b"x" * 200)

    def child() -> None:
        for _ in range(1000):
            bytearray(2000)
        tracemalloc.take_snapshot()

    return Forks(hold, child, threads=3, forks=100)


@row("faulthandler.dump_traceback_later / child: cancels it")
def _() -> Forks:
    faulthandler.dump_traceback_later(1000)
    return Forks(
        lambda: time.sleep(100), lambda: faulthandler.cancel_dump_traceback_later(), blocks=True, forks=5
    )


@row("faulthandler.dump_traceback_later / child: leaves it alone")
def _() -> Forks:
    faulthandler.dump_traceback_later(1000)
    return Forks(lambda: time.sleep(100), lambda: sum(range(1000)), blocks=True, forks=5)


def _waiting(name: str, make: Any) -> None:
    @row(f"{name}, waiting / child: the same kind")
    def _() -> Forks:
        hold, child = make()
        return Forks(hold, child, blocks=True, forks=10)


def _select() -> Any:
    r, _w = os.pipe()
    return lambda: select.select([r], [], []), lambda: select.select([r], [], [], 0)


def _poll() -> Any:
    r, _w = os.pipe()
    poll = select.poll()
    poll.register(r, select.POLLIN)
    return lambda: poll.poll(), lambda: select.poll().poll(0)


def _epoll() -> Any:
    r, _w = os.pipe()
    poll = select.epoll()
    poll.register(r, select.EPOLLIN)
    return lambda: poll.poll(), lambda: poll.poll(0)


def _accept() -> Any:
    server = socket.create_server(("127.0.0.1", 0))
    KEEP.append(server)

    def child() -> None:
        with socket.create_connection(server.getsockname()):
            pass

    return lambda: server.accept(), child


def _recv() -> Any:
    a, b = socket.socketpair()
    KEEP.append(b)
    return lambda: a.recv(1), lambda: (a.fileno(), a.getblocking(), a.send(b"x"))


def _read() -> Any:
    r, w = os.pipe()
    return lambda: os.read(r, 1), lambda: os.write(w, b"")


def _waitpid() -> Any:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "20"], os.environ)

    def child() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)

    return lambda: os.waitpid(pid, 0), child


def _flock() -> Any:
    import fcntl

    file = tempfile.NamedTemporaryFile()
    other = open(file.name, "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    mine = tempfile.TemporaryFile()
    KEEP.append(file)
    return lambda: fcntl.flock(other, fcntl.LOCK_EX), lambda: fcntl.flock(mine, fcntl.LOCK_EX)


for _name, _make in {
    "select.select": _select,
    "poll.poll": _poll,
    "epoll.poll": _epoll,
    "accept": _accept,
    "recv": _recv,
    "os.read": _read,
    "os.waitpid": _waitpid,
    "flock": _flock,
    "time.sleep": lambda: (lambda: time.sleep(50), lambda: time.sleep(0.001)),
    "signal.sigwait": lambda: (lambda: signal.sigwait([signal.SIGUSR1]), lambda: signal.sigpending()),
}.items():
    _waiting(_name, _make)


@row("warnings.catch_warnings / child: warnings.warn")
def _() -> Forks:
    """From 3.14 on `warnings` has a lock of its own, in C."""
    import warnings

    def hold() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("x", stacklevel=1)

    def child() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("x", stacklevel=1)

    sys.setswitchinterval(1e-5)
    warnings.simplefilter("ignore")
    return Forks(hold, child, threads=3, forks=300, gap=0.001)


@row("warnings.warn to a slow stderr / child: warnings.catch_warnings")
def _() -> Forks:
    """Slow, not stuck: from 3.14 on os.fork() itself takes the lock in the parent, to warn of the threads, and waits."""
    import warnings

    r, w = os.pipe()
    sys.stderr = open(w, "w")
    warnings.simplefilter("always")

    def read_slowly() -> None:
        while os.read(r, 65536):
            time.sleep(0.05)

    def child() -> None:
        sys.stderr = open(os.devnull, "w")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

    threading.Thread(target=read_slowly, daemon=True).start()
    return Forks(lambda: warnings.warn("x" * 300_000, stacklevel=1), child, forks=10, settle=0.5)
