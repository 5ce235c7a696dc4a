"""What the site's pages need beyond Markdown (a hook of mkdocs).

Pages are read in the repository too, where they link to programs beside them. The site does not have those: there such a link
becomes the file's name, and one to a file that does not exist fails the build as any other broken link does.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[((?:[^][]|\[[^]]*\])*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")
_log = logging.getLogger("mkdocs.hooks.forkproof")


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    here = (DOCS / page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        if target.is_relative_to(DOCS):
            return found[0]
        if not target.exists() or not target.is_relative_to(ROOT):
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, found[2])
        path = target.relative_to(ROOT)
        return f"`{path}`" if found[1] in (str(path), f"`{path}`") else f"{found[1]} (`{path}`)"

    return _LINK.sub(link, markdown)
