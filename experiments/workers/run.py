"""What a child of a fork gets of what the Python threads of a library did in the parent; the table of docs/reference/workers.md.

    python experiments/workers/run.py [--only TEXT] [--markdown]

Needs the libraries of rows.py and forkproof in the environment that runs it. lab.py says how to read the answers.
"""

from lab import main
from rows import ROWS

if __name__ == "__main__":
    main(ROWS, __doc__)
