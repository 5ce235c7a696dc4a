"""Renew the two transcripts in docs/pytest.md."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "pytest.md"
MACHINE = re.compile(r"^(rootdir|configfile|plugins):.*\n", re.MULTILINE)


def main() -> None:
    page = PAGE.read_text("utf-8")
    for options in "", " -o pythonpath=mended":
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--forkproof", *options.split()]
        said = subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout
        block = f"$ pytest --forkproof{options}\n{MACHINE.sub('', said).strip()}\n```"
        before, _, rest = page.partition(f"```\n$ pytest --forkproof{options}\n")
        page = f"{before}```\n{block}{rest.partition('```')[2]}"
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
