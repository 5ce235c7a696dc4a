"""What pyproject.toml cannot say: the C extensions, and a file that belongs beside the package, not in it."""

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
            extra_compile_args=ARGUMENTS,
        ),
        Extension(
            "forkproof.lab._emulate",
            sources=["src/forkproof/lab/_emulate.c"],
            extra_compile_args=ARGUMENTS,
        ),
    ],
)
