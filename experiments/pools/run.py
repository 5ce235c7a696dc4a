"""What a child of a fork gets of what the native threads of a library did in the parent; the table of docs/reference/pools.md.

    python experiments/pools/run.py [--only TEXT] [--markdown]

Needs the libraries of rows.py and forkproof in the environment that runs it. ../workers/lab.py says how to read the answers.
"""

import sys
from pathlib import Path

from rows import ROWS

sys.path.append(str(Path(__file__).resolve().parent.parent / "workers"))

if __name__ == "__main__":
    from lab import main

    main(ROWS, __doc__)
