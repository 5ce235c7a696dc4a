"""Buffered files, text streams, print and input; and the file objects that have no lock."""

from __future__ import annotations

import io
import os
import pty
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any

from lab import KEEP, Forks, row

BIG = b"x" * 1_000_000


def _full_pipe_writer(buffering: int = 8192) -> io.BufferedWriter:
    """A buffered writer whose write blocks: its pipe is full and nobody reads it."""
    _r, w = os.pipe()
    return open(w, "wb", buffering=buffering)


def _empty_pipe_reader() -> io.BufferedReader:
    """A buffered reader whose read blocks: nobody writes to its pipe."""
    r, _w = os.pipe()
    return open(r, "rb")


def _blocked(
    name: str, make: Callable[[], Any], hold: Callable[[Any], Any], child: Callable[[Any], Any]
) -> None:
    @row(name)
    def _() -> Forks:
        thing = make()
        return Forks(lambda: hold(thing), lambda: child(thing), blocks=True, forks=3)


for _name, _hold in {
    "write": lambda f: f.write(BIG),
    "flush": lambda f: f.flush(),
    "close": lambda f: f.close(),
    "seek": lambda f: f.seek(0),
    "writelines": lambda f: f.writelines([BIG]),
    "detach": lambda f: f.detach(),
    "__exit__": lambda f: f.__exit__(None, None, None),
}.items():

    def _make_writer(name: str = _name) -> io.BufferedWriter:
        file = _full_pipe_writer()
        if name in ("flush", "close", "seek", "detach", "__exit__"):
            os.set_blocking(file.fileno(), False)
            try:
                while os.write(file.fileno(), BIG):
                    pass
            except BlockingIOError:
                pass
            os.set_blocking(file.fileno(), True)
            file.write(b"one line\n")
        return file

    if _name != "seek":  # a pipe cannot seek
        _blocked(f"BufferedWriter.{_name} / child: write", _make_writer, _hold, lambda f: f.write(b"child\n"))

_blocked("BufferedWriter.write / child: another file", _full_pipe_writer, lambda f: f.write(BIG),
         lambda f: open(os.devnull, "wb").write(BIG))  # fmt: skip
_blocked(
    "BufferedWriter.write / child: ends by sys.exit",
    _full_pipe_writer,
    lambda f: f.write(BIG),
    lambda f: f.close(),
)

for _name, _hold in {
    "read": lambda f: f.read(),
    "read1": lambda f: f.read1(10),
    "readinto": lambda f: f.readinto(bytearray(10)),
    "readinto1": lambda f: f.readinto1(bytearray(10)),
    "readline": lambda f: f.readline(),
    "readlines": lambda f: f.readlines(),
    "peek": lambda f: f.peek(1),
    "__next__": next,
}.items():
    _blocked(f"BufferedReader.{_name} / child: peek", _empty_pipe_reader, _hold, lambda f: f.peek(1))
_blocked("BufferedReader.read / child: close", _empty_pipe_reader, lambda f: f.read(), lambda f: f.close())
_blocked(
    "BufferedReader.read / child: tell and fileno",
    _empty_pipe_reader,
    lambda f: f.read(),
    lambda f: f.fileno(),
)


@row("BufferedReader.seek", strace=("lseek",), delay=10_000)
def _() -> Forks:
    file = tempfile.TemporaryFile(buffering=4096)
    file.write(BIG)
    file.flush()
    KEEP.append(file)
    reader = open(file.fileno(), "rb", closefd=False)
    return Forks(
        lambda: reader.seek(50_000 if reader.tell() < 10_000 else 0), lambda: reader.seek(0), forks=40
    )


@row("BufferedRandom.truncate", strace=("ftruncate",), delay=10_000)
def _() -> Forks:
    file = tempfile.TemporaryFile()
    return Forks(lambda: file.truncate(10), lambda: file.truncate(10))


@row("BufferedWriter.tell", strace=("lseek",), delay=10_000)
def _() -> Forks:
    file = tempfile.TemporaryFile()
    return Forks(lambda: file.tell(), lambda: file.write(b"x"))


@row("BufferedRandom.write / child: read")
def _() -> Forks:
    file: IO[bytes] = tempfile.TemporaryFile()

    def hold() -> None:
        file.write(BIG * 4)
        file.seek(0)

    return Forks(hold, lambda: file.read(1), threads=2, forks=60)


@row("BufferedWriter.write to a disk file, busy")
def _() -> Forks:
    file: IO[bytes] = tempfile.TemporaryFile()

    def hold() -> None:
        file.write(BIG * 4)
        file.seek(0)

    return Forks(hold, lambda: file.write(b"child\n"), threads=2, forks=60)


def _pair() -> io.BufferedRWPair:
    r, _w = os.pipe()
    _r, w = os.pipe()
    return io.BufferedRWPair(io.FileIO(r, "r"), io.FileIO(w, "w"))


_blocked("BufferedRWPair.read / child: peek", _pair, lambda f: f.read(1), lambda f: f.peek(1))
_blocked("BufferedRWPair.write / child: write", _pair, lambda f: f.write(BIG), lambda f: f.write(b"child"))
_blocked(
    "BufferedRWPair.read / child: write", _pair, lambda f: f.read(1), lambda f: (f.write(b"child"), f.flush())
)


def _text_writer() -> io.TextIOWrapper:
    return io.TextIOWrapper(_full_pipe_writer(), line_buffering=True)


def _text_reader() -> io.TextIOWrapper:
    return io.TextIOWrapper(_empty_pipe_reader())


def _line(file: Any) -> None:
    file.write("child\n")
    file.flush()


TEXT = "x" * 1_000_000 + "\n"
_blocked("TextIOWrapper.write / child: write", _text_writer, lambda f: f.write(TEXT), _line)
_blocked("TextIOWrapper.flush / child: write", _text_writer, lambda f: (f.write(TEXT), f.flush()), _line)
_blocked("TextIOWrapper.writelines / child: write", _text_writer, lambda f: f.writelines([TEXT]), _line)
_blocked(
    "print / child: print",
    _text_writer,
    lambda f: print(TEXT, file=f),
    lambda f: print("child", file=f, flush=True),
)
_blocked("print / child: close", _text_writer, lambda f: print(TEXT, file=f), lambda f: f.close())
for _name, _hold in {
    "read": lambda f: f.read(1),
    "readline": lambda f: f.readline(),
    "readlines": lambda f: f.readlines(),
    "__next__": next,
}.items():
    _blocked(f"TextIOWrapper.{_name} / child: readline", _text_reader, _hold, lambda f: f.readline())


@row("for line in a text file / child: the same file", strace=("read",), delay=5_000)
def _() -> Forks:
    name = tempfile.mktemp()
    with open(name, "w") as file:
        file.write("line of text\n" * 200_000)
    shared = open(name)
    os.unlink(name)

    def hold() -> None:
        shared.seek(0)
        for _line in shared:
            pass

    return Forks(hold, lambda: (shared.readline(), shared.read(100_000)), forks=40)


def _std(name: str, write: bool) -> Callable[[], Any]:
    def make() -> Any:
        stream = _text_writer() if write else _text_reader()
        setattr(sys, name, stream)
        return stream

    return make


_blocked(
    "print to sys.stdout / child: print",
    _std("stdout", True),
    lambda f: print(TEXT),
    lambda f: print("child", flush=True),
)
_blocked(
    "sys.stdout.write / child: print",
    _std("stdout", True),
    lambda f: f.write(TEXT),
    lambda f: print("child", flush=True),
)
_blocked("input() from a pipe / child: input()", _std("stdin", False), lambda f: input(), lambda f: input())
_blocked(
    "sys.stdin.readline / child: input()", _std("stdin", False), lambda f: f.readline(), lambda f: input()
)
_blocked(
    "print / child: leaves the interpreter's own way",
    _std("stdout", True),
    lambda f: print(TEXT),
    lambda f: f.flush(),
)


@row("a thread ends by an exception (threading.excepthook) / child: print to stderr")
def _() -> Forks:
    import _thread

    stream = _std("stderr", True)()

    def hold() -> None:
        try:
            raise RuntimeError(TEXT)
        except RuntimeError as error:
            _thread._excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))  # type: ignore[attr-defined]

    return Forks(hold, lambda: print("child", file=stream, flush=True), blocks=True, forks=3, settle=0.3)


@row("sys.excepthook / child: print to stderr")
def _() -> Forks:
    stream = _std("stderr", True)()

    def hold() -> None:
        try:
            raise RuntimeError(TEXT)
        except RuntimeError as error:
            sys.__excepthook__(type(error), error, error.__traceback__)

    return Forks(hold, lambda: print("child", file=stream, flush=True), blocks=True, forks=3, settle=0.3)


def _terminal(readline: bool) -> Callable[[], Forks]:
    def make() -> Forks:
        master, slave = pty.openpty()
        os.dup2(slave, 0)
        os.dup2(slave, 1)
        sys.stdin = open(0)
        sys.stdout = open(1, "w")
        if readline:
            import readline as _readline  # noqa: F401

        def drain() -> None:
            while True:
                os.read(master, 1000)

        threading.Thread(target=drain, daemon=True).start()

        def child() -> None:
            os.dup2(slave, 0)
            os.dup2(slave, 1)
            input("child? ")

        return Forks(lambda: input("parent? "), child, blocks=True, forks=3, settle=0.4)

    return make


row("input() at a terminal / child: input()")(_terminal(False))
row("input() at a terminal, readline / child: input()")(_terminal(True))


def _terminal_answered() -> Forks:
    """The child's question is answered, so that waiting for the terminal cannot be taken for waiting for a lock."""
    master, slave = pty.openpty()
    os.dup2(slave, 0)
    os.dup2(slave, 1)
    sys.stdin = open(0)
    sys.stdout = open(1, "w")

    def child() -> None:
        other_master, other = pty.openpty()
        os.dup2(other, 0)
        os.dup2(other, 1)
        os.write(other_master, b"answer\n")
        assert input("child? ") == "answer"

    threading.Thread(target=lambda: [os.read(master, 100) for _ in iter(int, 1)], daemon=True).start()
    return Forks(lambda: input("parent? "), child, blocks=True, forks=3, settle=0.4)


row("input() at a terminal / child: input() at another")(_terminal_answered)


# -------------------------------------------------------------------------------------------------- without a lock


def _raw_pipe() -> io.FileIO:
    r, w = os.pipe()
    raw = io.FileIO(r, "r")
    raw.name_of_the_other_end = w  # type: ignore[attr-defined]
    return raw


def _raw_child(raw: Any) -> None:
    os.write(raw.name_of_the_other_end, b"xx")  # one for the thread of the parent that waits
    raw.read(1)


_blocked("FileIO.read / child: read", _raw_pipe, lambda f: f.read(1), _raw_child)


def _raw_full() -> io.FileIO:
    _r, w = os.pipe()
    return io.FileIO(w, "w")


_blocked(
    "FileIO.write / child: fileno, close",
    _raw_full,
    lambda f: f.write(BIG * 10),
    lambda f: (f.fileno(), f.close()),
)


@row("BytesIO and StringIO")
def _() -> Forks:
    one, two = io.BytesIO(), io.StringIO()

    def hold() -> None:
        one.write(BIG)
        one.seek(0)
        two.write(TEXT)
        two.seek(0)

    return Forks(hold, hold, threads=2, forks=60)
