"""Install this checkout, with an extra, into a virtual environment: `install.py VENV EXTRA`.

The environment is made with the interpreter that runs this. The build happens in a copy: builds for several
interpreters at once do not disturb each other, and a file that was deleted is not installed from what an
earlier build left behind.
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("src", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def install(environment: Path, extra: str) -> None:
    """Make `environment` if it does not work, and (re)install the checkout there with what `extra` needs."""
    if not _works(environment):
        venv.create(environment, clear=True, with_pip=True, symlinks=True)
    with tempfile.TemporaryDirectory(prefix="forkproof-build-") as folder:
        copy, wheels = Path(folder, "copy"), Path(folder, "wheels")
        copy.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                built = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
                shutil.copytree(ROOT / part, copy / part, ignore=built)
            else:
                shutil.copy(ROOT / part, copy / part)
        _pip(environment, "wheel", "--no-deps", "--wheel-dir", wheels, copy)
        (wheel,) = wheels.iterdir()
        _pip(environment, "install", f"{wheel}[{extra}]")
        # To pip the version is the same as before the change, so there would be nothing to do.
        _pip(environment, "install", "--no-deps", "--force-reinstall", wheel)


def _works(environment: Path) -> bool:
    try:
        _pip(environment, "--version")
        return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _pip(environment: Path, *arguments: str | Path) -> None:
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]), sys.argv[2])
