"""The name that a library, or its debug file, has for an address in its data: by pyelftools, where that is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from forkproof.doctor.process import Region


def nearest(address: int, library: str, regions: Sequence[Region], root: str = "") -> str:
    """The variable that `address` is in, or the nearest before it ("name+16"); "" where nobody knows.

    `library` as the process maps it; `root` is put before it (`/proc/PID/root`, the files as the process sees them).
    """
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return ""
    base = next((region.start - region.offset for region in regions if region.path == library), None)
    if base is None:
        return ""
    best: tuple[int, str] = (0, "")
    try:
        with open(root + library, "rb") as file:
            elf = ELFFile(file)
            inside = address - base if elf["e_type"] == "ET_DYN" else address
            best = max(_before(elf, inside), default=best)
            debug = _debug_file(elf, root) if not best[1] else ""
        if debug:
            with open(debug, "rb") as file:
                best = max(_before(ELFFile(file), inside), default=best)
    except (OSError, ELFError):
        return best[1]
    start, name = best
    return name if inside == start or not name else f"{name}+{inside - start}"


def _before(elf: Any, address: int) -> Iterator[tuple[int, str]]:
    """The variables that begin at `address`, or before it and reach over it, or have no size."""
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_SYMTAB", "SHT_DYNSYM"):
            continue
        for symbol in section.iter_symbols():
            start, size = symbol["st_value"], symbol["st_size"]
            if symbol["st_info"]["type"] == "STT_OBJECT" and start <= address < start + max(size, 1):
                yield start, symbol.name


def _debug_file(elf: Any, root: str) -> str:
    """The detached symbols of that build, if they are installed (the layout that gdb looks for)."""
    note = elf.get_section_by_name(".note.gnu.build-id")
    build = next((str(item["n_desc"]) for item in note.iter_notes()), "") if note else ""
    for folder in (f"{root}/usr/lib/debug", "/usr/lib/debug"):
        path = f"{folder}/.build-id/{build[:2]}/{build[2:]}.debug"
        if build and os.path.exists(path):
            return path
    return ""
