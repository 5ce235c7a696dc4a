"""Public docstrings as Markdown (an extension of griffe, which reads them for the site).

The docstrings of this project are prose for a terminal: settings stand in two columns, pages are named by their path. Here a list
in columns becomes a list of Markdown, and a page that is named a link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"^( *)(\w[\w.*, ]*?) {2,}(\S.*)$")
_PAGE = re.compile(r"docs/([\w/-]*?)([\w-]+)\.md")


class Markdown(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    lines, done = text.split("\n"), []
    while lines:
        items = _columns(lines)
        if len(items) > 1:
            done += ["", *(f"- `{name}`: {' '.join(said)}" for name, said in items), ""]
            del lines[: sum(len(said) for _, said in items)]
        else:
            done.append(lines.pop(0))
    return _PAGE.sub(r"[\2](../\1\2.md)", "\n".join(done))


def _columns(lines: list[str]) -> list[tuple[str, list[str]]]:
    """The list in columns that these lines begin with: each name, and its lines."""
    items: list[tuple[str, list[str]]] = []
    margin = None
    for line in lines:
        if (found := _ITEM.match(line)) and margin in (None, found[1]):
            margin = found[1]
            items.append((found[2], [found[3]]))
        elif items and line.startswith(f"{margin}  ") and line.strip():
            items[-1][1].append(line.strip())
        else:
            break
    return items
