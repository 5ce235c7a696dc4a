"""The one thing that pyproject.toml cannot say: the C extension, from all the C files beside each other."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "forkproof._native",
            sources=sorted(glob("src/forkproof/_c/*.c")),
            depends=sorted(glob("src/forkproof/_c/*.h")),
            extra_compile_args=[
                "-O2",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-Wno-missing-field-initializers",
            ],
        )
    ]
)
