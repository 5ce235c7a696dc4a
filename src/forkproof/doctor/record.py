"""What a fork left in its child for the doctor: the `fork` event, in a mapping that can be found from outside.

The mapping shows in /proc/PID/maps as `/memfd:forkproof-record`. Eight bytes of magic, the length (32 bits, little-endian),
then the event as in docs/reference/events.md, whose hazards have one more key, `address`: of the lock object, hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from forkproof.doctor.process import Region
from forkproof.model import Fork, Hazard

_PATH = "/memfd:forkproof-record"
_MAGIC = b"FPRECRD1"
_LONGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Record:
    """A fork, and where in memory the locks lie that its hazards name."""

    fork: Fork
    addresses: tuple[tuple[int, Hazard], ...]
    """Of the hazards that remained when the fork went ahead."""


def find(regions: Iterable[Region], read: Callable[[int, int], bytes]) -> Record | None:
    """The record in a process's memory. None if there is none, or none that can be trusted."""
    for region in regions:
        if region.path.startswith(_PATH) and (record := _read(region.start, read)):
            return record
    return None


def _read(start: int, read: Callable[[int, int], bytes]) -> Record | None:
    head = read(start, 12)
    size = int.from_bytes(head[8:], "little")
    if not head.startswith(_MAGIC) or size > _LONGEST:
        return None
    try:
        data = json.loads(read(start + 12, size))
        fork = Fork.from_json(data)
        addresses = [int(str(item.get("address") or "0"), 16) for item in data["hazards"]]
    except (ValueError, AttributeError, RecursionError):
        return None
    pairs = zip(addresses, fork.hazards, strict=True)
    return Record(
        fork, tuple((address, hazard) for address, hazard in pairs if address and not hazard.cleared)
    )
