"""Pages of the reference that are other things' data: the commands, the keys of the events, the catalogue of hazards.

    python tools/docs/generate.py            write them
    python tools/docs/generate.py --check    exit status 1 if one of them is not what it would write

They are kept in the repository, so that they can be read there; `tests/test_docs.py` holds them to their data. Needs
forkproof[cli], installed from this checkout.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PACKAGE = ROOT / "src" / "forkproof"
_MADE = "<!-- Made by tools/docs/generate.py from {}: change that, and not this page. -->"

_Entry = dict[str, Any]


# Commands.


def commands() -> str:
    """What each command's own help says."""
    from forkproof.cli import commands as group

    page = [
        "# Commands",
        _MADE.format("the commands' own help (`src/forkproof/cli.py`)"),
        "What `forkproof COMMAND --help` says. `pip install 'forkproof[cli]'` brings the commands; `doctor`, `--html` and "
        "some acts of `demo` need an extra of their own, and say so.",
        _help(group),
    ]
    for name, command in group.commands.items():
        page += [f"## forkproof {name}", _usage(group, name, command), _help(command), _options(command)]
    text = "\n\n".join(filter(None, page)) + "\n"
    return re.sub(r"docs/([\w/-]+)\.md", _page, text)


def _page(found: re.Match[str]) -> str:
    return f"[{Path(found[1]).name}]({os.path.relpath(f'{found[1]}.md', 'reference')})"


def _usage(group: click.Group, name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"forkproof {name}")
    return f"```text\nforkproof {name} {' '.join(command.collect_usage_pieces(context))}\n```"


def _help(command: click.Command) -> str:
    """Paragraphs as text, and those which click is not to wrap as they are."""
    said = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        said.append(paragraph if kept == paragraph else f"```text\n{textwrap.dedent(kept)}\n```")
    return "\n\n".join(said)


def _options(command: click.Command) -> str:
    rows = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        value = option.metavar or ""
        if isinstance(option.type, click.Choice):
            value = "|".join(map(str, option.type.choices))
        elif not option.is_flag and not value:
            value = "N"
        fallback = f"{option.default:g}" if isinstance(option.default, float) else option.default
        default = f" Default: {fallback}." if option.show_default else ""
        names = ", ".join(f"`{f'{name} {value}'.strip()}`" for name in option.opts)
        rows.append((names, f"{option.help}{' Repeatable.' if option.multiple else ''}{default}"))
    return _table(("option", ""), rows) if rows else ""


# Events.


def events() -> str:
    """The page on events, its tables made anew from the JSON Schema."""
    kinds = json.loads((PACKAGE / "events.schema.json").read_text("utf-8"))["$defs"]
    page = (ROOT / "docs" / "events.md").read_text("utf-8")

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{_keys(kinds, kinds[found[2]])}\n\n<!-- end -->"

    return re.sub(r"(<!-- keys of (\w+) -->)\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _keys(kinds: _Entry, kind: _Entry) -> str:
    rows = []
    for name, described in kind["properties"].items():
        meant = _described(kinds, described)
        optional = "" if name in kind["required"] else "optional. "
        rows.append((f"`{name}`", _type(kinds, described), f"{optional}{meant}"))
    return _table(("key", "", "meaning"), rows)


def _described(kinds: _Entry, described: _Entry) -> str:
    text = described.get("description")
    if text is None and "$ref" in described:
        text = _referred(kinds, described).get("description")
    return str(text or "")


def _referred(kinds: _Entry, described: _Entry) -> _Entry:
    found: _Entry = kinds[described["$ref"].rpartition("/")[2]]
    return found


def _type(kinds: _Entry, described: _Entry) -> str:
    if "enum" in described:
        return ", ".join("null" if one is None else f"`{one}`" for one in described["enum"])
    if "oneOf" in described:
        return " or ".join(_type(kinds, one) for one in described["oneOf"])
    if "$ref" in described:
        referred = _referred(kinds, described)
        name = described["$ref"].rpartition("/")[2]
        return f"a {name}" if "properties" in referred else _type(kinds, referred)
    kind = described["type"]
    if kind == "array":
        return f"list: each {_type(kinds, described['items'])}"
    return kind if isinstance(kind, str) else " or ".join(kind)


# Hazards.


def hazards() -> str:
    """The catalogue: what is known of calls, locks, threads, connections and warnings."""
    calls, locks, workers, pools, connections, warnings = (
        tomllib.loads((PACKAGE / "catalogue" / f"{name}.toml").read_text("utf-8"))
        for name in ("calls", "locks", "workers", "pools", "connections", "warnings")
    )
    harmful = [entry for entry in pools["pool"] if not entry["harmless"]]
    harmless = [entry for entry in pools["pool"] if entry["harmless"]]
    page = [
        "# Hazards",
        _MADE.format("`src/forkproof/catalogue/*.toml`"),
        "What Forkproof knows by name. Locks that Python code takes need no entry: they are found in the frames of the threads "
        "([how](../explanation/evidence.md)). Here is what no frame shows, each found by experiment or in the source, or both. "
        "An entry is data: a correction or a new one is a few lines of TOML.",
        "## Calls that hold a native lock",
        "Kind `native-call`: a thread may hold a lock of the C library, of another library or of a file while it is inside one of "
        "these. The measurements are in [native-calls.md](../native-calls.md).",
        *_entries(sorted(calls["call"], key=lambda entry: "emulated" in entry), _call),
        "## Locks of libraries, taken in compiled code",
        "Kind `held-lock`.",
        *_entries(locks["lock"], _lock),
        "## Threads that others rely on",
        "Kind `vanished-worker`: told once, and again for a child that waits. The measurements are in [workers.md](../workers.md).",
        *_entries((entry for entry in workers["worker"] if not _harmless(entry)), _worker),
        "## Native threads",
        "Kind `native-pool`. The measurements are in [pools.md](../pools.md).",
        *_entries(harmful, _pool),
        "## Connections",
        "Event `shared-connection`, when a child uses what its parent has open as well ([connections.md](../connections.md)).",
        *_entries(connections["connection"], _connection),
        "## Warnings that Forkproof can judge",
        *_entries(warnings["warning"], _warning),
        "## Known to be harmless",
        _table(
            ("what", "why"),
            [
                *((f"`{lock['lock']}`", lock["reason"]) for lock in locks["harmless"]),
                *((pool["what"], pool["child"]) for pool in harmless),
                *(
                    (entry["what"], "mends itself in a child")
                    for entry in workers["worker"]
                    if _harmless(entry)
                ),
            ],
        ),
    ]
    return "\n\n".join(page) + "\n"


def _harmless(worker: _Entry) -> bool:
    """Whether every version of the library mends it in a child."""
    return "mended" in worker and not worker["mended"]


def _entries(entries: Iterable[_Entry], said: Callable[[_Entry], Iterator[tuple[str, str]]]) -> Iterator[str]:
    for entry in entries:
        yield f"### {entry['what']}{' (emulated)' if 'emulated' in entry else ''}"
        yield "\n".join(f"- **{title}:** {_plain(text)}" for title, text in said(entry) if text)


def _call(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "Held", entry["holds"]
    yield "A child", entry["child"]
    yield from _common(entry)
    yield "Calls", _code(entry["names"])
    limits = [*entry.get("platforms", ()), *([f"Python {entry['python']}"] if "python" in entry else ())]
    if "emulated" in entry:
        limits.append(f"under `--emulate {entry['emulated']}`")
    if "only" in entry:
        limits.append("with a host that is a name")
    if "name_service" in entry:
        limits.append(f"where users and groups are looked up by {', '.join(entry['name_service'])}")
    yield "Where", "; ".join(limits)
    yield "Known from", entry["source"]


def _lock(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield from _common(entry)
    yield "Lock", f"`{entry['path']}`"
    yield "Where", f"{entry['distribution']} {entry.get('versions', '')}".strip()
    yield "Known from", entry["source"]


def _worker(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "A child", entry["child"]
    yield from _common(entry)
    yield "Runs", _code(entry["run"])
    if "distribution" in entry:
        mended = f", but for {entry['mended']}, which mends itself" if "mended" in entry else ""
        yield "Where", f"{entry['distribution']}{mended}"
    yield "Known from", entry["source"]


def _pool(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "A child", entry["child"]
    yield from _common(entry)
    yield "Known by", _code([*entry.get("libraries", ()), *entry.get("threads", ())])
    yield "Known from", entry["source"]


def _connection(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "A child", entry["child"]
    yield from _common(entry)
    yield "Known from", entry["source"]


def _warning(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "Says", entry["meaning"]
    yield "Is moot", entry["moot"]
    yield "Known from", entry["source"]


def _common(entry: _Entry) -> Iterator[tuple[str, str]]:
    yield "What to do", entry.get("advice", "")


def _plain(text: str) -> str:
    """Text of the catalogue's, in which nothing but code in backticks is markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[\\*<\[\]]|(?<!\w)_", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "commands.md": commands,
    ROOT / "docs" / "events.md": events,
    REFERENCE / "hazards.md": hazards,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page for page, make in PAGES.items() if not page.exists() or page.read_text("utf-8") != make()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}{' is not what its data say' if check else ''}")
        if not check:
            page.write_text(PAGES[page](), "utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
