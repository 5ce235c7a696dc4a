"""`python -m forkproof` and the command `forkproof`.

Must be readable by every Python 3, and import nothing before it has looked: whoever starts Forkproof where it
cannot work gets one line that says so, not a traceback.
"""

import importlib.util
import os
import sys


def main() -> int:
    """Run the commands; 2 with one line on stderr where they cannot work."""
    problem = _problem()
    if problem:
        sys.stderr.write("forkproof: " + problem + "\n")
        return 2
    from forkproof.cli import main as cli

    return cli()


def _problem() -> "str | None":
    if not hasattr(os, "fork"):
        return sys.platform + " has no fork(), so none can go wrong; run the program with plain python"
    if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
        found = "%s %d.%d" % (sys.implementation.name, sys.version_info[0], sys.version_info[1])
        return "needs CPython 3.11 or later, and this is " + found + "; use another interpreter"
    for needed in ("click", "rich"):
        if importlib.util.find_spec(needed) is None:
            return "the commands need click and rich; install them with: pip install 'forkproof[cli]'"
    return None


if __name__ == "__main__":
    sys.exit(main())
