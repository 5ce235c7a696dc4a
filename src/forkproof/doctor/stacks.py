"""The stacks of a process's threads, Python and native, by pystack.

Why pystack and not py-spy: both read CPython 3.11 to 3.15, but pystack is a library with values (py-spy is a program with
text), gives native frames of wheels and of the C library by their names and addresses, reads core files, and tells
the address of a frame's locals, without which a lock could not be looked at. It is an extra: `forkproof[doctor]`.

pystack can only unwind native frames of a process that it has stopped. So it is asked to stop one only when the caller
says that something in there stands still; a busy process is read while it runs.

Of locals only the names, types and addresses of objects are kept, never a value.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkproof.doctor.process import DoctorError

if TYPE_CHECKING:
    from pystack.types import NativeFrame, PyFrame, PyThread

_OBJECT = re.compile(r"<(?P<kind>[\w.]+) at 0x(?P<address>[0-9a-f]+)>")
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
    """The stacks of all threads, by thread id, and which Python they are of."""

    threads: Mapping[int, Stack]
    version: tuple[int, int] | None


def read(pid: int, *, stop: bool) -> Stacks:
    """The stacks of process `pid`; native ones too if it is stopped for it, which takes some 20 to 200 ms.

    Unreadable, with the reader's reason, where there are none.
    """
    engine = _engine()
    try:
        threads = engine.get_process_threads(
            pid,
            stop_process=stop,
            native_mode=engine.NativeReportingMode.ALL if stop else engine.NativeReportingMode.OFF,
            locals=True,
        )
    except Exception as error:  # pystack's own errors, and what its parser may raise
        raise Unreadable(_reason(error)) from None
    return _stacks(threads)


def read_core(core: Path, executable: Path) -> Stacks:
    """The stacks in a core file."""
    engine = _engine()
    try:
        threads = engine.get_process_threads_for_core(
            core, executable, native_mode=engine.NativeReportingMode.ALL, locals=True
        )
    except Exception as error:
        raise Unreadable(_reason(error)) from None
    return _stacks(threads)


def _engine() -> Any:  # a module, and an optional one
    try:
        from pystack import engine
    except ImportError:
        raise Unreadable(
            "the stack reader is not installed; install it with: pip install 'forkproof[doctor]'"
        ) from None
    # It warns on stderr of each local that it cannot read; none of them matters here.
    logger = logging.getLogger("pystack")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logging.getLogger().addHandler(logging.NullHandler())
    return engine


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("Engine error: ").strip()
    return text.splitlines()[0] if text else type(error).__name__


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
