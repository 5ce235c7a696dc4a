"""Random programs by the thousand: is what evidence says of their threads the truth?

    python tools/ground_truth.py [--examples N] [--seed N] [--way running|blocking|forking|lines|stepping] [--policy observe|wait]

`running` and `blocking` look at interrupted and waiting threads, `forking` at children, `stepping` before every bytecode, as
only a trace function that waits can stop a thread (see docs/ground-truth.md). Needs the `test` extra. Exit status 1 if anything said
was not the truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--way", choices=["running", "blocking", "forking", "lines", "stepping"], default="running"
    )
    parser.add_argument("--policy", choices=["observe", "wait"], default="observe")
    asked = parser.parse_args()

    import truth

    import forkproof

    if asked.way == "forking":
        forkproof.install(policy=asked.policy, wait=5, warn=False)
    began, lies, instants = time.monotonic(), 0, 0
    for seed in range(asked.seed, asked.seed + asked.examples):
        one, two = truth.random_program(seed), truth.random_program(seed + 10**6)
        try:
            if asked.way == "running":
                instants += truth.running([one, two])
            elif asked.way == "blocking":
                instants += truth.blocking([one], seed)
            elif asked.way == "forking":
                instants += truth.forking([one, two])[0]
            else:
                instants += truth.stepping(one, seed, lines=asked.way == "lines")
        except AssertionError as error:
            lies += 1
            print(f"-- program {seed}\n{error}\n", flush=True)
    print(
        f"CPython {sys.version.split()[0]}, {asked.way}: {asked.examples} programs, {instants} instants, "
        f"{lies} programs with a lie, {time.monotonic() - began:.0f} s"
    )
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(main())
