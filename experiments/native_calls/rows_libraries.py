"""Process-wide locks of libraries, held in compiled code. Skipped where the library is not installed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

from lab import Forks, row


def _library(name: str) -> Any:
    return row(name, site=True)


@_library("h5py reads / child: opens another file")
def _() -> Forks | str:
    try:
        import h5py
        import numpy
    except ImportError as error:
        return str(error)
    path, other = tempfile.mktemp(suffix=".h5"), tempfile.mktemp(suffix=".h5")
    for name in (path, other):
        with h5py.File(name, "w") as file:
            file["x"] = numpy.zeros((2000, 500))
    shared = h5py.File(path, "r")

    def child() -> None:
        with h5py.File(other, "r") as file:
            file["x"][0]

    return Forks(lambda: shared["x"][:], child, threads=2)


@_library("numpy.random, global functions / child: the same")
def _() -> Forks | str:
    try:
        import numpy
    except ImportError as error:
        return str(error)
    return Forks(lambda: numpy.random.rand(1_000_000), lambda: numpy.random.rand(), threads=1)


@_library("numpy.random.randint / child: numpy.random.seed")
def _() -> Forks | str:
    try:
        import numpy
    except ImportError as error:
        return str(error)
    return Forks(lambda: numpy.random.standard_normal(1_000_000), lambda: numpy.random.seed(1), threads=1)


@_library("numpy.random, global functions / child: a Generator of its own")
def _() -> Forks | str:
    try:
        import numpy
    except ImportError as error:
        return str(error)
    return Forks(lambda: numpy.random.rand(1_000_000), lambda: numpy.random.default_rng().random(), threads=1)


@_library("numpy Generator / child: the same Generator")
def _() -> Forks | str:
    try:
        import numpy
    except ImportError as error:
        return str(error)
    generator = numpy.random.default_rng()
    return Forks(lambda: generator.random(1_000_000), lambda: generator.random(), threads=1)


@_library("lxml parses / child: parses")
def _() -> Forks | str:
    try:
        from lxml import etree
    except ImportError as error:
        return str(error)
    path = tempfile.mktemp(suffix=".xml")
    with open(path, "w") as file:
        file.write("<a>" + "<b c='d'>text</b>" * 200_000 + "</a>")
    parser = etree.XMLParser()
    return Forks(lambda: etree.parse(path), lambda: etree.fromstring(b"<a/>", parser), threads=2)


@_library("lxml, one XPath object / child: the same one")
def _() -> Forks | str:
    try:
        from lxml import etree
    except ImportError as error:
        return str(error)
    find, tree = etree.XPath("count(//b)"), etree.fromstring(b"<a>" + b"<b>text</b>" * 200_000 + b"</a>")
    return Forks(lambda: find(tree), lambda: find(tree), threads=1)


@_library("lxml, one parser object / child: the same parser")
def _() -> Forks | str:
    try:
        from lxml import etree
    except ImportError as error:
        return str(error)
    path = tempfile.mktemp(suffix=".xml")
    with open(path, "w") as file:
        file.write("<a>" + "<b c='d'>text</b>" * 200_000 + "</a>")
    parser = etree.XMLParser()
    return Forks(lambda: etree.parse(path, parser), lambda: etree.fromstring(b"<a/>", parser), threads=1)


def _lua(in_child: Callable[[Any], Any]) -> Forks | str:
    """`in_child` is given the parent's runtime, and returns the one that the child is to use."""
    try:
        import lupa
    except ImportError as error:
        return str(error)
    lua = lupa.LuaRuntime()
    lua.globals().slow = lambda: time.sleep(0.05)
    return Forks(lambda: lua.execute("slow()"), lambda: in_child(lua).eval("1"), threads=1)


@_library("lupa, one LuaRuntime in a Python function / child: the same one")
def _() -> Forks | str:
    return _lua(lambda lua: lua)


@_library("lupa, one LuaRuntime in a Python function / child: another one")
def _() -> Forks | str:
    return _lua(lambda lua: type(lua)())


@_library("pyFFTW plans / child: plans")
def _() -> Forks | str:
    try:
        import pyfftw
    except ImportError as error:
        return str(error)

    def plan(size: int, effort: str) -> None:
        pyfftw.FFTW(
            pyfftw.empty_aligned(size, "complex128"),
            pyfftw.empty_aligned(size, "complex128"),
            flags=(effort,),
        )

    return Forks(
        lambda: plan(7 * 9 * 11 * 13 * 5, "FFTW_PATIENT"), lambda: plan(16, "FFTW_ESTIMATE"), threads=1
    )
