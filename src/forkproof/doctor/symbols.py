"""Names of addresses in a library's data, and addresses of names, from the library or its debug file.

By pyelftools, where that is installed; without it nothing has a name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from forkproof.doctor.process import Region


def nearest(address: int, library: str, regions: Sequence[Region], root: str = "") -> str:
    """The variable that `address` is in ("name+16" where it is not at its begin); "" where nobody knows.

    `library` as the process maps it; `root` is put before it (`/proc/PID/root`, the files as the process sees them).
    """
    for variables in _tables(library, regions, root):
        found = (one for one in variables if one[1] <= address < one[1] + max(one[2], 1))
        if best := max(found, key=lambda one: one[1], default=None):
            name, start, _ = best
            return name if address == start else f"{name}+{address - start}"
    return ""


def places_of(
    names: Sequence[str], library: str, regions: Sequence[Region], root: str = ""
) -> Mapping[str, tuple[int, int]]:
    """Where the variables of these names are, and how many bytes each has; those that nobody knows are left out."""
    found: dict[str, tuple[int, int]] = {}
    for variables in _tables(library, regions, root):
        found = {name: (start, size) for name, start, size in variables if name in names} | found
        if len(found) == len(names):
            break
    return found


def _tables(library: str, regions: Sequence[Region], root: str) -> Iterator[Iterator[tuple[str, int, int]]]:
    """The name, the address in the process and the size of each variable: by the library, then by the debug file."""
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return
    base = next((region.start - region.offset for region in regions if region.path == library), None)
    if base is None:
        return
    with suppress(OSError, ELFError), open(root + library, "rb") as file:
        elf = ELFFile(file)
        shift = base if elf["e_type"] == "ET_DYN" else 0
        yield _variables(elf, shift)
        if debug := _debug_file(elf, root):
            with open(debug, "rb") as other:
                yield _variables(ELFFile(other), shift)


def _variables(elf: Any, shift: int) -> Iterator[tuple[str, int, int]]:
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_SYMTAB", "SHT_DYNSYM"):
            continue
        for symbol in section.iter_symbols():
            if symbol["st_info"]["type"] == "STT_OBJECT" and symbol["st_value"]:
                yield symbol.name, symbol["st_value"] + shift, symbol["st_size"]


def _debug_file(elf: Any, root: str) -> str:
    """The detached symbols of that build, if they are installed (the layout that gdb looks for)."""
    note = elf.get_section_by_name(".note.gnu.build-id")
    build = next((str(item["n_desc"]) for item in note.iter_notes()), "") if note else ""
    for folder in (f"{root}/usr/lib/debug", "/usr/lib/debug"):
        path = f"{folder}/.build-id/{build[:2]}/{build[2:]}.debug"
        if build and os.path.exists(path):
            return path
    return ""
