"""The words that all renderers share: what a thread had, where, how it ended, and which frames say so.

A kind of hazard is data here, not a branch: one that is not in a table is told as a lock that was held.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache

from forkproof.model import Connection, DoubledOutput, Fork, Frame, Hazard, SharedConnection
from forkproof.report._text import clean

_HELD = {  # how a thread had what it had: (certain, possible)
    "holds": ("held", "possibly held"),
    "importing": ("held", "possibly held"),
    "leaving": ("was letting go of", "was possibly letting go of"),
    "acquiring": ("was acquiring", "was possibly acquiring"),
    "inside": ("was inside", "was inside"),
}
_OTHERWISE = {  # kinds of hazard of which "a thread held it" would not be true
    "native-call": ("was inside", "was inside"),
    "vanished-worker": ("works in the parent only", "works in the parent only"),
    "native-pool": ("has its threads in the parent only", "may have its threads in the parent only"),
    "shared-connection": ("is open in both processes", "may be open in both processes"),
}

PROOFS = {
    "record": "the fork's record names it",
    "owner": "its owner is not in this process, or waits for this thread",
    "closed-world": "no thread of this process can ever wake it",
    None: "no record of who has it",
}


USES = {"read": "reads from", "write": "writes to", "shutdown": "shuts down"}
_STREAMS = {"<stdout>": "stdout", "<stderr>": "stderr"}
_CONNECTIONS = {"tcp": "TCP connection", "unix": "Unix socket", "pipe": "pipe", "socket": "socket"}


def had(hazard: Hazard) -> str:
    """What is between the name of the thread and that of the lock: "held", "was possibly acquiring"."""
    forms = _HELD[hazard.state] if hazard.state else _OTHERWISE.get(hazard.kind, _HELD["holds"])
    return forms[hazard.certainty == "possible"]


def is_had(hazard: Hazard) -> bool:
    """Whether it is something that a thread had, rather than a thread or a connection itself."""
    return any(had(hazard) in forms for forms in _HELD.values())


def verdict(fork: Fork) -> tuple[str, str]:
    """How a fork went, and the style that tells: "bad", "doubt", "good" or "dim"."""
    if fork.outcome == "refused":
        return ("was refused: it would be at risk", "good")
    if fork.risk == "certain":
        return ("went ahead at risk", "bad")
    if fork.risk == "possible":
        return ("went ahead possibly at risk", "doubt")
    if fork.waited_ms > 0:
        return (f"waited {duration(fork.waited_ms)}, then nothing was at risk", "good")
    if fork.hazards:
        return ("the child does not have all threads that it may ask for something", "dim")
    return ("nothing was at risk", "dim")


def trimmed(stack: Sequence[Frame], most: int = 6) -> Iterator[Frame | None]:
    """The frames that matter, innermost first: no import machinery, no thread start-up, at most `most`; None
    stands for those left out between. A stack of nothing else keeps its innermost frame."""
    kept = [frame for frame in stack if not is_machinery(frame)] or list(stack[:1])
    if len(kept) <= most:
        yield from kept
    else:
        yield from kept[: most - 2]
        yield None
        yield from kept[-2:]


def is_machinery(frame: Frame) -> bool:
    starts_thread = frame.function in ("_bootstrap", "_bootstrap_inner", "run")
    return frame.file.startswith("<frozen importlib") or (
        starts_thread and os.path.basename(frame.file) == "threading.py"
    )


def ending(fork: Fork, hazard: Hazard) -> str:
    waited = f"waited {duration(fork.waited_ms)}"
    if hazard.cleared:
        return f"{waited}; let go, or owned by the fork, before the fork went ahead"
    if fork.outcome == "refused":
        return "the fork was refused, nothing happened"
    if fork.waited_ms > 0:
        return f"{waited} in vain; still so when the fork went ahead"
    return "not waited for; so when the fork went ahead"


def connection(of: Connection) -> str:
    """A connection by its sort, its other end, and whose it is."""
    peer = f" to {of.peer}" if of.peer else ""
    owner = ", ".join(filter(None, (of.library, of.owner)))
    return f"{_CONNECTIONS.get(of.kind, 'connection')}{peer}{f' ({owner})' if owner else ''}"


def sharing(shared: SharedConnection) -> str:
    """What is known of the other process."""
    if shared.held_by is None:
        held = "another process has it too"
    elif shared.proof is None and shared.connection.kind != "pipe":
        return f"process {shared.held_by} may have it open too: this process may not look"
    else:
        held = f"process {shared.held_by} has it open too"
    amounts = ((shared.others_wrote, "written"), (shared.others_read, "read"))
    did = " and ".join(f"{verb} {number(count, 'byte')}" for count, verb in amounts if count)
    return f"{held}, and since the fork others have {did}" if did else held


def output(doubled: DoubledOutput) -> str:
    """How much it was, and of what."""
    if doubled.records is not None:
        return f"{number(doubled.records, 'record')} in the buffer of a MemoryHandler"
    stream = _STREAMS.get(doubled.file or "") or (
        f"file {short(doubled.file)}" if doubled.file else f"descriptor {doubled.fd}"
    )
    return f"{number(doubled.bytes or 0, 'byte')} in the buffer of {stream}"


def doubling(doubled: DoubledOutput) -> str:
    """How that came about."""
    both = "two processes have" if doubled.writers == 2 else f"{doubled.writers} processes have"
    copy = f"fork {doubled.fork} of process {doubled.parent} copied the buffer"
    if doubled.verdict == "proven":
        return f"{copy}, and {both} flushed it, process {doubled.pid} last"
    return f"{copy}, and {both} closed the file or ended with it open"


def place(frame: Frame) -> str:
    line = "" if frame.line is None else f":{frame.line}"
    return clean(f"{short(frame.file)}{line} in {frame.function}")


@cache
def short(file: str) -> str:
    """`file` as a person would call it: relative to the folder that Python, or the person, looks in."""
    roots = [path for path in (os.getcwd(), *sys.path) if os.path.isabs(path) and len(path) > 1]
    inside = [root for root in roots if file.startswith(os.path.join(root, ""))]
    return os.path.relpath(file, max(inside, key=len)) if inside else file


def source_line(frame: Frame) -> str:
    """The line itself, if it can be read here. Only ever from an ordinary file: the name is only a claim."""
    if frame.line is None or not os.path.isfile(frame.file):
        return ""
    return clean(linecache.getline(frame.file, frame.line).strip().expandtabs(1), 200)


def number(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else plural}"


def duration(ms: float) -> str:
    return f"{ms / 1000:.2g} s" if ms >= 999.5 else f"{ms:.0f} ms" if ms >= 9.95 else f"{ms:.1f} ms"
