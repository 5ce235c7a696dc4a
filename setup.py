"""The one thing that pyproject.toml cannot say: the C extensions."""

from glob import glob

from setuptools import Extension, setup

ARGUMENTS = [
    "-O2",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]

setup(
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
    ]
)
