"""What looks like a credential is not shown: reports are pasted into tickets and kept by CI.

By its name (`--password x`, `token=x`), by its place (in a URL before the @) or by its form (tokens that announce themselves).
A guess, and one that errs on the side of hiding: nothing else is hidden, and names of locks and places in the source
are never so formed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"

_NAME = (
    r"(?:pass(?:word|wd|phrase)|passwd|pwd|secret|token|credentials?|authorization|cookie"
    r"|(?:api|access|auth|private|signing|encryption|account|secret)[-_]?key)"
)
_IN_URL = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/@'\"]+@")
_BY_FORM = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[a-z]-[\w-]{10,}"
    r"|sk-[\w-]{20,}|[sr]k_(?:live|test)_\w{10,}|pypi-[\w-]{20,}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
    r"|(?i:\b(?<=bearer )[\w.~+/=-]{8,})"
)
_QUOTED = re.compile(
    rf"(?i)({_NAME}\w*[\"']?\]?\s*(?::\s*\w+\s*)?[=:,]\s*[rbfu]{{0,2}})([\"'])(?:(?!\2).)+(?:\2|$)"
)
_ASSIGNED = re.compile(
    rf"(?i)({_NAME}(?![\w.-]*(?:file|path))[\w.-]*[\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)[^\s\"'&;,]+"
)
_OPTION = re.compile(rf"(?i)--?(?:[\w-]*[-_])?{_NAME}(?:[-_]?(?:value|string))?")


def redacted(text: str) -> str:
    """`text` (prose, a name, a line of source) without what looks like a credential in it."""
    if "://" in text:
        text = _IN_URL.sub(rf"\1:{HIDDEN}@", text)
    text = _BY_FORM.sub(HIDDEN, text)
    return _QUOTED.sub(rf"\1\2{HIDDEN}\2", text)


def redacted_command(words: Iterable[str]) -> str:
    """A command line, its words joined by spaces, without what looks like a credential in it."""
    shown = []
    follows = False
    for word in words:
        if follows and not word.startswith("-"):
            shown.append(HIDDEN)
        else:
            shown.append(_ASSIGNED.sub(rf"\1{HIDDEN}", redacted(word)))
        follows = bool(_OPTION.fullmatch(word))
    return " ".join(shown)
