"""The documentation says what the data say, and what the sources name of it is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("src", "tests", "examples", "experiments", "forkbench", "docs")
SUFFIXES = {".py", ".pyi", ".toml", ".c", ".h", ".md", ".j2", ".js", ".json"}


def test_generated_pages_are_what_their_data_say() -> None:
    command = [sys.executable, str(ROOT / "tools" / "docs" / "generate.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, ""), (
        f"{ended.stdout}{ended.stderr}run tools/docs/generate.py"
    )


def test_pages_that_are_named_exist() -> None:
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    files += [path for part in SOURCES for path in (ROOT / part).rglob("*") if path.suffix in SUFFIXES]
    named = {
        (page, str(file.relative_to(ROOT)))
        for file in files
        for page in re.findall(r"(?<![\w/.-])(docs/[\w./-]+\.(?:md|png))", file.read_text("utf-8", "replace"))
    }
    assert named
    assert {(page, file) for page, file in named if not (ROOT / page).exists()} == set()


def test_every_page_is_in_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", menu)) == pages


def test_every_transcript_is_made_by_a_script() -> None:
    made = (ROOT / "tools" / "docs" / "transcripts.py").read_text("utf-8")
    scenes = {
        name.replace("_", "-") for name in re.findall(r"^def ([a-z]\w*)\(\) -> str:", made, re.MULTILINE)
    }
    shown: dict[str, str] = {}
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        blocks = re.findall(
            r"<!-- transcript: ([\w-]+) -->\n```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL
        )
        for name, text in blocks:
            assert text.strip(), f"{page.name}: {name} is empty"
            assert shown.setdefault(name, text) == text, f"{name} is not the same everywhere"
    assert set(shown) == scenes
