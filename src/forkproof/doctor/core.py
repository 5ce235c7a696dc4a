"""A core file instead of a live process: the same questions, of what the kernel (or gcore) has written down.

There are no system calls to ask for, but registers: a thread in a futex call still has its number and arguments there. There
is one moment only, and no parent, so what needs two looks or the parent is at best `likely`.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from forkproof._secrets import redacted_command
from forkproof.doctor import stacks
from forkproof.doctor.errors import DoctorError
from forkproof.doctor.examine import NATIVE_ONLY, diagnose
from forkproof.doctor.process import Process, Region, Task, make_call
from forkproof.doctor.stacks import Stacks, Unreadable
from forkproof.model import Diagnosis

# elf_prstatus and user_regs_struct (sys/procfs.h, sys/user.h) of x86-64: offsets in bytes.
_PID, _REGISTERS, _REGISTER_COUNT = 32, 112, 27
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi, rsi, rdx, r10, r8, r9
_ORIG_RAX, _RSP, _FS_BASE = 15, 19, 21


def examine_core(path: str) -> Diagnosis:
    """Look at the process that left the core file at `path`. `DoctorError` says in one line why that was not possible."""
    if platform.machine() != "x86_64":
        raise DoctorError(f"core files can be read on x86-64 only, and this is {platform.machine()}")
    with open(path, "rb") as file:
        process = CoreProcess(file)
        notes = ["a core file shows one moment, and no parent"]
        with stacks.Reader() as reader:
            try:
                found = reader.read_core(Path(path), Path(process.executable))
            except Unreadable as error:
                found = Stacks({}, None)
                notes.append(NATIVE_ONLY.format(error))
            tasks = process.tasks()
            still = frozenset(task.tid for task in tasks)
            return diagnose(process, tasks, still, process.regions(), found, notes, reader)


class CoreProcess(Process):
    """A process as its core file has it."""

    is_alive = False

    def __init__(self, file: BinaryIO) -> None:
        try:
            from elftools.common.exceptions import ELFError
            from elftools.elf.elffile import ELFFile
        except ImportError:
            raise DoctorError(
                "pyelftools is not installed; install it with: pip install 'forkproof[doctor]'"
            ) from None
        self._file = file
        self._tasks: list[Task] = []
        self._idents: dict[int, int] = {}
        self._files: list[Region] = []
        self._flags = 0
        try:
            elf = ELFFile(file)
            if elf["e_type"] != "ET_CORE":
                raise DoctorError(f"{file.name} is not a core file")
            segments: list[Any] = list(elf.iter_segments())
            self._loaded = [segment.header for segment in segments if segment["p_type"] == "PT_LOAD"]
            for segment in segments:
                if segment["p_type"] == "PT_NOTE":
                    self._take(segment.iter_notes())
        except ELFError as error:
            raise DoctorError(f"{file.name} is not a core file: {error}") from None
        if not self._tasks:
            raise DoctorError(f"{file.name} is a core file without threads")
        self.pid = min(task.tid for task in self._tasks)
        self.started = 0
        self.command = self.command or os.path.basename(self.executable)
        self.inner = self.pid
        self.caught_signals = frozenset()
        self.image = None

    def _take(self, notes: Iterator[Any]) -> None:
        for note in notes:
            if note["n_type"] == "NT_PRSTATUS":
                self._thread(note["n_descdata"])
            elif note["n_type"] == "NT_PRPSINFO":
                info = note["n_desc"]
                self._flags = info["pr_flag"]
                words = info["pr_psargs"].rstrip(b"\0 ").decode(errors="replace").split(" ")
                self.command = redacted_command(words)
            elif note["n_type"] == "NT_FILE":
                desc = note["n_desc"]
                for entry, name in zip(desc["Elf_Nt_File_Entry"], desc["filename"], strict=True):
                    offset = entry["page_offset"] * desc["page_size"]
                    self._files.append(
                        Region(entry["vm_start"], entry["vm_end"], "", offset, name.decode(errors="replace"))
                    )

    def _thread(self, status: bytes) -> None:
        tid = struct.unpack_from("<i", status, _PID)[0]
        registers = struct.unpack_from(f"<{_REGISTER_COUNT}Q", status, _REGISTERS)
        number = registers[_ORIG_RAX]
        call = make_call(number, tuple(registers[at] for at in _ARGUMENTS)) if number < 1 << 16 else None
        self._idents[tid] = registers[_FS_BASE]
        self._tasks.append(Task(tid, tid, "", "S" if call else "R", 0, 0, 0, call, registers[_RSP]))

    @property
    def executable(self) -> str:
        """What was run: the first file that is mapped from its beginning."""
        return next((region.path for region in self._files), "")

    @property
    def flags(self) -> int:
        return self._flags

    @property
    def parent(self) -> int:
        raise DoctorError("a core file does not show the parent")

    @property
    def age(self) -> float | None:
        return None

    def tasks(self) -> list[Task]:
        return sorted(self._tasks, key=lambda task: task.tid != self.pid)

    def tid_of(self, ident: int, tasks: Sequence[Task]) -> int | None:
        return next((tid for tid, own in self._idents.items() if own == ident), None)

    def robust_lists(self) -> list[int]:
        return list(self._idents.values())

    def descriptor(self, number: int) -> str:
        return f"descriptor {number}"

    def regions(self) -> list[Region]:
        found = []
        for segment in self._loaded:
            start, end = segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"]
            file = next((region for region in self._files if region.start <= start < region.end), None)
            offset = file.offset + start - file.start if file else 0
            flags = segment["p_flags"]
            permissions = (
                "".join(letter if flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
                + "p"
            )
            found.append(Region(start, end, permissions, offset, file.path if file else ""))
        return found

    def read(self, address: int, size: int) -> bytes:
        for segment in self._loaded:
            inside = address - segment["p_vaddr"]
            if inside >= 0 and inside + size <= segment["p_filesz"]:
                return os.pread(self._file.fileno(), size, segment["p_offset"] + inside)
        # What was never written to is not in the core, but still in the file that was mapped.
        for region in self._files:
            if region.start <= address and address + size <= region.end:
                try:
                    with open(region.path, "rb") as file:
                        file.seek(region.offset + address - region.start)
                        return file.read(size)
                except OSError:
                    break
        return b""
