"""The stacks of a process's threads, Python and native, by pystack.

Why pystack and not py-spy: both read CPython 3.11 to 3.15, but pystack is a library with values (py-spy is a program with
text), gives native frames of wheels and of the C library by their names and addresses, reads core files, and tells
the address of a frame's locals, without which a lock could not be looked at. It is an extra: `forkproof[doctor]`.

pystack can only unwind native frames of a process that it has stopped. So it is asked to stop one only when the caller
says that something in there stands still; a busy process is read while it runs. It has aborted on memory that changed
under its eyes, so it has a process of its own; which is started early, and imports pystack while /proc is looked at.

Of locals only the names, types and addresses of objects are kept, never a value.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forkproof.doctor import yama
from forkproof.doctor.errors import DoctorError, Forbidden

if TYPE_CHECKING:
    from pystack.types import NativeFrame, PyFrame, PyThread

_OBJECT = re.compile(r"<(?P<kind>[\w.]+) at 0x(?P<address>[0-9a-f]+)>")
_URGENT = -15  # niceness, where the doctor may have one (it is root)
_LIMIT = 30.0  # seconds that reading may take
_UNNAMED = {"???", ""}


class Unreadable(DoctorError):
    """There are no stacks to be had: the reader is missing, or does not know that interpreter."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A local variable that refers to an object with an address; its value is not looked at."""

    kind: str
    """The name of its type."""
    address: int


@dataclass(frozen=True, slots=True)
class PythonFrame:
    """A frame of Python code."""

    file: str
    line: int
    function: str
    is_entry: bool
    """C code called it, so that native frames lie between it and the one outside of it."""
    variables: Mapping[str, Variable] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Native:
    """A frame of compiled code."""

    symbol: str
    """"" where the library does not tell."""
    library: str
    address: int

    @property
    def is_python(self) -> bool:
        """It is the interpreter's own."""
        return re.match(r"(lib)?python[\d.]*[a-z]*(\.so.*)?$", os.path.basename(self.library)) is not None


@dataclass(frozen=True, slots=True)
class Stack:
    """What one thread was doing, innermost frame first."""

    tid: int
    python: tuple[PythonFrame, ...] = ()
    native: tuple[Native, ...] = ()
    merged: tuple[PythonFrame | Native, ...] = ()
    """Both together, as far as the reader can tell how they interleave; without the interpreter's own."""
    has_gil: bool = False
    name: str | None = None

    def is_inside(self, *symbols: str) -> bool:
        """Whether one of these C functions is on the native stack."""
        return any(frame.symbol in symbols for frame in self.native)


@dataclass(frozen=True, slots=True)
class Stacks:
    """The stacks of all threads, by the thread ids that the process itself knows, and which Python they are of."""

    threads: Mapping[int, Stack]
    version: tuple[int, int] | None


def check(pid: int) -> None:
    """Forbidden where Yama lets this process look at process `pid`, and not the readers that it starts."""
    if not yama.keeps_helpers_out():
        return
    with helper(f"import os; os.open('/proc/{pid}/mem', os.O_RDONLY)") as process:
        process.communicate()
    if process.returncode and os.path.exists(f"/proc/{pid}"):
        raise Forbidden(
            f"not permitted to read the stacks of process {pid}: Yama allows that to its ancestors only, not to the process that reads "
            f"for one (kernel.yama.ptrace_scope is 1); {yama.what_to_allow()}; or start the program by `forkproof run`"
        )


class Reads(Protocol):
    """What has stacks read."""

    def read(self, pid: int, *, stop: bool) -> Stacks:
        """The stacks of process `pid`; Unreadable, with the reader's reason, where there are none."""


class Reader:
    """A reader of stacks that is getting ready, in a process of its own, from when it is entered.

    Memory that changes while it is read, or is damaged, has made it abort; and if it takes too long, its end lets a process
    that it had stopped run on.
    """

    def __enter__(self) -> Reader:
        self._ready: subprocess.Popen[bytes] | None = _begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._ready:
            _end(self._ready)

    def read(self, pid: int, *, stop: bool) -> Stacks:
        """The stacks of process `pid`; native ones too if it is stopped for it, which takes some 20 to 200 ms.

        Unreadable, with the reader's reason, where there are none.
        """
        return self._ask("process", pid, stop)

    def read_core(self, core: Path, executable: Path) -> Stacks:
        """The stacks in a core file; Unreadable as for `read`."""
        return self._ask("core", core, executable)

    def _ask(self, *question: object) -> Stacks:
        process, self._ready = self._ready or _begin(), None
        try:
            written, _ = process.communicate(pickle.dumps(question), timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            raise Unreadable(f"the stack reader took more than {_LIMIT} s") from None
        finally:
            _end(process)
        if process.returncode:
            raise Unreadable(f"the stack reader failed (status {process.returncode})")
        answered = pickle.loads(written)
        if isinstance(answered, str):
            raise Unreadable(answered)
        assert isinstance(answered, Stacks)
        return answered


def helper(code: str, *, start_new_session: bool = False) -> subprocess.Popen[bytes]:
    """A process that runs `code` on this interpreter and this Forkproof, with pipes for what it is asked and answers."""
    folder = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), folder)))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=start_new_session,
    )


def _begin() -> subprocess.Popen[bytes]:
    return helper("from forkproof.doctor.stacks import answer; answer()")


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


def answer() -> None:
    """The other side: a question on stdin, the stacks or the reason why there are none on stdout."""
    given: Stacks | str
    with suppress(ImportError):  # before there is a question; that it is not there is the answer to one
        import pystack.engine  # noqa: F401
    try:
        question = pickle.load(sys.stdin.buffer)
        if question[-1] is True:
            # A process stands still meanwhile: where others want the processors, not for the time that they take too.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, _URGENT)
        given = _read(*question)
    except Unreadable as error:
        given = str(error)
    except Exception as error:  # pystack's own errors, and what its parser may raise
        text = str(error).removeprefix("Engine error: ").strip()
        given = text.splitlines()[0] if text else type(error).__name__
    sys.stdout.buffer.write(pickle.dumps(given))


def _read(what: str, subject: Any, how: Any) -> Stacks:
    try:
        from pystack.engine import NativeReportingMode, get_process_threads, get_process_threads_for_core
        from pystack.errors import EngineError
    except ImportError:
        raise Unreadable(
            "the stack reader is not installed; install it with: pip install 'forkproof[doctor]'"
        ) from None
    if what == "core":
        return _stacks(
            get_process_threads_for_core(subject, how, native_mode=NativeReportingMode.ALL, locals=True)
        )
    if how:
        try:
            return _stacks(
                get_process_threads(
                    subject, stop_process=True, native_mode=NativeReportingMode.ALL, locals=True
                )
            )
        except EngineError:  # native stacks cannot be had, as from outside of the process's pid namespace
            pass
    return _stacks(
        get_process_threads(subject, stop_process=how, native_mode=NativeReportingMode.OFF, locals=True)
    )


def _stacks(threads: Iterable[PyThread]) -> Stacks:
    found: dict[int, Stack] = {}
    version = None
    for thread in threads:
        version = version or thread.python_version
        if thread.tid and (
            thread.tid not in found or thread.frame
        ):  # one a sub-interpreter: keep the one that runs
            found[thread.tid] = _stack(thread)
    return Stacks(found, version)


def _stack(thread: PyThread) -> Stack:
    python = tuple(_python(frame) for frame in thread.frames)[::-1]
    native = tuple(_native(frame) for frame in thread.native_frames)[::-1]
    return Stack(
        tid=thread.tid,
        python=python,
        native=native,
        merged=tuple(_merge(thread, python, native)),
        has_gil=thread.holds_the_gil > 0,
        name=thread.name,
    )


def _python(frame: PyFrame) -> PythonFrame:
    variables = {}
    for name, text in (*frame.arguments.items(), *frame.locals.items()):
        if (found := _OBJECT.fullmatch(text)) and int(found["address"], 16):
            variables[name] = Variable(found["kind"], int(found["address"], 16))
    code = frame.code
    return PythonFrame(code.filename, code.location.lineno, code.scope, frame.is_entry, variables)


def _native(frame: NativeFrame) -> Native:
    symbol = frame.symbol.removesuffix(" (inlined)").partition("@")[0]
    return Native("" if symbol in _UNNAMED else symbol, frame.library, frame.address)


def _merge(
    thread: PyThread, python: tuple[PythonFrame, ...], native: tuple[Native, ...]
) -> Iterable[PythonFrame | Native]:
    """Innermost first. A run of Python frames that ends at an entry frame belongs to one evaluation on the C stack."""
    from pystack.types import NativeFrame, frame_type

    kinds = [frame_type(frame, thread.python_version) for frame in thread.native_frames][::-1]
    evaluations = sum(kind is NativeFrame.FrameType.EVAL for kind in kinds)
    if evaluations != sum(frame.is_entry for frame in thread.all_frames):
        # An interpreter without symbols: what lies below the innermost of its frames was called by that.
        for frame in native:
            if frame.is_python:
                break
            yield frame
        yield from python
        return
    left = list(python)
    for frame, kind in zip(native, kinds, strict=True):
        if kind is NativeFrame.FrameType.EVAL:
            while left:
                yield left[0]
                if left.pop(0).is_entry:
                    break
        elif kind is NativeFrame.FrameType.OTHER and not frame.is_python and left:
            yield frame
    yield from left
