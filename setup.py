"""What pyproject.toml cannot say: the C extensions, and a file that belongs beside the package, not in it."""

import shlex
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ARGUMENTS = [
    "-O2",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]


def taken(*options: str) -> list[str]:
    """Those that the C compiler knows."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    try:
        subprocess.run(
            [*compiler, "-Werror", *options, "-x", "c", "-S", "-o", "/dev/null", "/dev/null"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return list(options)


# A thread's own variables beside the C library's description of the thread, if there is room (forking.c, place_this_fork). It is
# so by itself on arm64, and glibc's manual has it as glibc.rtld.optional_static_tls.
BESIDE_THREAD = taken("-mtls-dialect=gnu2") if sys.platform == "linux" else []


class BuildWithStart(build_py):
    """With the line by which `site` finds the variable FORKPROOF (forkproof/auto.py)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("src/forkproof.pth", self._start())

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), self._start()]

    def _start(self) -> str:
        return str(Path(self.build_lib, "forkproof.pth"))


setup(
    cmdclass={"build_py": BuildWithStart},
    ext_modules=[
        Extension(
            "forkproof._native",
            sources=sorted(glob("src/forkproof/_c/*.c")),
            depends=sorted(glob("src/forkproof/_c/*.h")),
            extra_compile_args=[*ARGUMENTS, *BESIDE_THREAD],
        ),
        Extension(
            "forkproof.lab._emulate",
            sources=["src/forkproof/lab/_emulate.c"],
            extra_compile_args=ARGUMENTS,
        ),
    ],
)
