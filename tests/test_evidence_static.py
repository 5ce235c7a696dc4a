"""Reading bytecode, checked against what the compiler says itself, over the standard library of this interpreter.

Two witnesses that are not ours: `co_stacksize`, which no depth exceeds, and the depth in each entry of the exception table,
which the compiler has worked out by its own data flow.
"""

from __future__ import annotations

import dis
import os
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkproof import _native

PACKAGES = ("asyncio", "concurrent/futures", "collections", "email", "http", "importlib", "json", "logging",
            "multiprocessing", "unittest", "urllib", "")  # fmt: skip


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def entries(code: types.CodeType) -> Iterator[tuple[int, int, int, int, int]]:
    """(start, end, target, depth, lasti) in code units, as Objects/exception_handling_notes.txt describes the table."""
    raw = iter(code.co_exceptiontable)

    def number() -> int:
        byte = next(raw)
        value = byte & 63
        while byte & 64:
            byte = next(raw)
            value = value << 6 | byte & 63
        return value

    while True:
        try:
            start = number()
        except StopIteration:
            return
        size, target, depth = number(), number(), number()
        yield start, start + size, target, depth >> 1, depth & 1


def faults(code: types.CodeType) -> list[str]:
    units = _native.code_units(code)
    raw = code.co_code
    found = []
    assert len(units) == len(raw) // 2
    for at, (depth, slot, _) in enumerate(units):
        if depth < 0:
            continue
        name = dis.opname[raw[2 * at]]
        if depth > code.co_stacksize:
            found.append(f"{at}: depth {depth} above co_stacksize {code.co_stacksize}")
        if name == "RETURN_VALUE" and depth != 1:
            found.append(f"{at}: returns with {depth} on the stack")
        if slot >= depth:
            found.append(f"{at}: manager in slot {slot} of {depth}")
    for start, end, target, depth, lasti in entries(code):
        with_handler = dis.opname[raw[2 * target]] == "PUSH_EXC_INFO" and (
            dis.opname[raw[2 * target + 2]] == "WITH_EXCEPT_START"
        )
        if units[target][0] >= 0 and units[target][0] != depth + lasti + 1:
            found.append(f"{target}: handler at depth {units[target][0]}, the table says {depth + lasti + 1}")
        # The handler around a whole generator (of StopIteration) covers its last two instructions too, which raise nothing
        # and where 3.15 has let go of what lay below.
        whole = dis.opname[raw[2 * target]] == "CALL_INTRINSIC_1"
        for at in range(start, end):
            if 0 <= units[at][0] < depth and not (whole and units[at][0] < 2 and at >= end - 2):
                found.append(f"{at}: depth {units[at][0]} below the table's {depth}")
            if with_handler and units[at][0] >= 0 and units[at][1] != depth - 1:
                found.append(f"{at}: manager in slot {units[at][1]}, the table says {depth - 1}")
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda name: name or "top level")
def test_depths_and_managers_agree_with_the_compiler(package: str) -> None:
    folder = Path(os.__file__).parent / package
    count = 0
    files = sorted(folder.glob("*.py"))
    for file in files:
        top = compile(file.read_text("utf-8"), str(file), "exec")
        for code in codes(top):
            count += 1
            assert faults(code) == [], f"{code.co_qualname} of {file}"
    assert count > 10


def test_every_instruction_of_ordinary_code_is_reached() -> None:
    code = threading.Condition.wait.__code__
    units = _native.code_units(code)
    assert units[0][0] == 0
    assert sum(depth >= 0 for depth, *_ in units) > 30
    assert any(pending & 0x8000 for _, _, pending in units), "between _release_save and _acquire_restore"


def test_a_function_with_extended_arguments_everywhere() -> None:
    names = "\n".join(f"    if x: a_{i}.b_{i}(c_{i}, 'text {i}')" for i in range(400))
    source = (
        f"def f(x, lock):\n{names}\n    with lock:\n{names.replace('    if', '        if')}\n    return x\n"
    )
    space: dict[str, types.FunctionType] = {}
    exec(source, space)
    code = space["f"].__code__
    assert faults(code) == []
    slots = {slot for depth, slot, _ in _native.code_units(code) if depth >= 0}
    assert len(slots) == 2


def test_code_that_ends_too_soon_does_no_harm() -> None:
    """Jumps and handlers lead nowhere then; it is followed as far as it goes. (CPython itself needs whole instructions.)"""
    good = threading.Condition.wait.__code__
    whole = [i.offset for i in dis.get_instructions(good)][1:]
    for cut in whole:
        short = good.replace(co_code=good.co_code[:cut])
        assert len(_native.code_units(short)) in (0, cut // 2)
