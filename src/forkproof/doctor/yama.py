"""What Yama, a security module of Linux, says of who may look at whom (Documentation/admin-guide/LSM/Yama.rst).

Under `ptrace_scope` 1 a process may read the memory of its descendants, and of processes that have named it, or a forebear of it,
by prctl(PR_SET_PTRACER). A parent's helper is no forebear of the parent's other children.
"""

from __future__ import annotations

import os

_SETTING = "/proc/sys/kernel/yama/ptrace_scope"
_CAP_SYS_PTRACE = 19


def scope() -> int:
    """The setting `kernel.yama.ptrace_scope`; 0, which forbids nothing, where there is no Yama."""
    try:
        with open(_SETTING) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def has_ptrace() -> bool:
    """Whether this process may look at any other, as far as its own namespaces reach (CAP_SYS_PTRACE)."""
    with open("/proc/self/status") as file:
        mask = next(line for line in file if line.startswith("CapEff:")).split()[1]
    return bool(int(mask, 16) >> _CAP_SYS_PTRACE & 1)


def what_to_allow() -> str:
    """What lets this process look at any other of its user's, where `scope` is 1."""
    root = "start the container with --cap-add=SYS_PTRACE" if os.geteuid() == 0 else "run this as root"
    return f"{root}, or allow it with: sudo sysctl kernel.yama.ptrace_scope=0"


def keeps_helpers_out() -> bool:
    """Whether a helper of this process may not look at this process's other descendants, unless they name it."""
    return scope() == 1 and not has_ptrace()
