"""Text for terminals: made harmless, measured in cells, and wrapped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from forkproof._secrets import redacted

Segment = tuple[str, str]
"""A piece of text and its style (a rich style, or "")."""


def clean(text: str, limit: int = 500) -> str:
    """`text` with every character that a terminal might obey, or not show, written as an escape.

    Thread and file names come from the program, and so from whoever sends it data: an escape sequence, a
    newline or a right-to-left override in one must not be able to forge a line of the report. What looks like a
    credential is left out.
    """
    text = redacted(text)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cells(text: str) -> int:
    """The columns that `text` takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def wrap(segments: Iterable[Segment], width: int, indent: int, hang: int) -> list[list[Segment]]:
    """`segments` as lines of at most `width` cells: the first indented by `indent`, the others by `hang`
    more.

    Lines break at spaces; a word that is wider than a line is cut.
    """
    lines: list[list[Segment]] = [[(" " * indent, "")]]
    used = indent
    margin = " " * (indent + hang)
    for text, style in segments:
        for word in _words(text, width - len(margin)):
            if used + cells(word) > width and used > len(margin):
                lines.append([(margin, "")])
                used = len(margin)
                word = word.lstrip()
            used += cells(word)
            if lines[-1][-1][1] == style:
                word = lines[-1].pop()[0] + word
            lines[-1].append((word, style))
    return lines


def _words(text: str, widest: int) -> Iterable[str]:
    """`text` in pieces that may begin a line: words with the spaces before them, cut at `widest` cells."""
    word = ""
    for c in text:
        if (c == " " and word.strip()) or cells(word + c) > widest:
            yield word
            word = ""
        word += c
    if word:
        yield word


def cut(text: str, width: int, dots: str) -> str:
    """`text`, or as much of its beginning as fits into `width` cells with `dots` after it."""
    if cells(text) <= width:
        return text
    while text and cells(text) > width - len(dots):
        text = text[:-1]
    return text + dots
