"""What to run: the rest of a command line that begins as python's own may (`script`, `-m module`, `-c code`).

`check` finds what is plainly wrong before anything is started, without running a line of the program.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path


class LaunchError(Exception):
    """The program cannot be started: one line that says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """The command line after python's own options, as python would be given it."""

    line: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a person would call the program."""
        first, *rest = self.line or ("",)
        if first[:2] == "-m":
            return first[2:] or "".join(rest[:1])
        return first[:2] if first[:2] == "-c" else os.path.basename(first)

    def check(self) -> None:
        """Raise LaunchError if python could not even begin to run this."""
        if not self.line:
            raise LaunchError("nothing to run: name a script, or -m module, or -c code")
        first, *rest = self.line
        if first[:2] in ("-m", "-c"):
            rest = [first[2:], *rest] if first[2:] else rest  # -mmodule is -m module
            if not rest:
                raise LaunchError(f"{first} needs {'a module' if first == '-m' else 'code'} to run after it")
            if first[:2] == "-m":
                _check_module(rest[0])
        elif first != "-":
            _check_script(first)


def _check_script(script: str) -> None:
    if not os.path.exists(script):
        raise LaunchError(f"no such script: {script!r}; {_instead_of(script)}")
    if not os.access(script, os.R_OK):
        raise LaunchError(f"cannot read {script!r}; allow it, or run as a user who may")
    # A folder or an archive is run by its __main__; python has an importer for it exactly then.
    importer = pkgutil.get_importer(script)
    if importer and not importer.find_spec("__main__"):
        raise LaunchError(f"nothing to run in {script!r}: it has no __main__.py; name a script inside it")
    if not importer and os.path.isdir(script):
        raise LaunchError(f"nothing to run in {script!r}; name a script inside it")


def _instead_of(script: str) -> str:
    """What somebody may have meant who named a script that does not exist."""
    command = shutil.which(script)
    if command:
        with open(command, "rb") as file:
            head = file.readline(200)
        if head.startswith(b"#!") and b"python" in head:
            return f"to run that command, give its path: {command}"
    return "check the path, or run a module with -m"


def _check_module(name: str) -> None:
    """Look `name` up as `python -m` will, but without importing the packages that it is in."""
    path = _path_of_program()
    package: ModuleSpec | None = None
    names = name.split(".")
    if not all(names):
        raise LaunchError(f"no module named {name!r}: -m takes an absolute name; check it")
    for depth in range(1, len(names) + 1):
        part = ".".join(names[:depth])
        spec = _find(part, path)
        if spec is None:
            if package and _edits_its_path(package):
                return  # only running it can tell: python will say what there is to say
            raise LaunchError(f"no module named {part!r}; check the name, or install it for {sys.executable}")
        if spec.submodule_search_locations is None and depth < len(names):
            raise LaunchError(f"no module named {name!r}: {part!r} is not a package; check the name")
        package, path = spec, list(spec.submodule_search_locations or ())
    assert package  # a name has at least one part
    is_package = package.submodule_search_locations is not None
    if is_package and not (_find(f"{name}.__main__", path) or _edits_its_path(package)):
        raise LaunchError(f"{name!r} is a package without __main__; name a module inside it")


def _path_of_program() -> list[str]:
    """`sys.path` as the program will have it: the current folder first, where this process has its own."""
    return sys.path if sys.flags.safe_path else [os.getcwd(), *sys.path[1:]]


def _find(name: str, path: Sequence[str]) -> ModuleSpec | None:
    for finder in sys.meta_path:
        # Finders of the top level (editable installs) expect None there; the path finder then reads sys.path.
        spec = finder.find_spec(name, path)
        if spec:
            return spec
    return None


def _edits_its_path(package: ModuleSpec) -> bool:
    """Whether the package may look for its modules elsewhere once it runs (pkgutil-style namespaces)."""
    try:
        source = Path(package.origin or "").read_bytes()
    except OSError:
        return package.loader is not None
    return b"__path__" in source or b"declare_namespace" in source
