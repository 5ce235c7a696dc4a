"""All rows of the experiment; as a script, runs the one that is named. See run.py."""

from __future__ import annotations

import sys

import rows_files
import rows_libraries
import rows_names
import rows_objects
import rows_sqlite
import rows_system
import rows_tls
from lab import ROWS, main

__all__ = ["ROWS", "matches"]
_ = (rows_files, rows_libraries, rows_names, rows_objects, rows_sqlite, rows_system, rows_tls)


def matches(needs: str, version: tuple[int, ...]) -> bool:
    """Whether (3, 12) satisfies ">=3.11,<3.13"."""
    for clause in filter(None, needs.split(",")):
        op = clause.rstrip("0123456789.")
        bound = tuple(int(part) for part in clause[len(op) :].split("."))
        if not {">=": version >= bound, "<": version < bound, "==": version == bound}[op]:
            return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
