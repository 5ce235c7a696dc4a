"""What `hunt` varies from run to run: drawn at random from a seed, and written so that a run can be made to come again."""

from __future__ import annotations

import dis
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

_BEGIN_WITH = ("BEFORE_WITH", "LOAD_SPECIAL")  # up to 3.13, and after


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the threads of one run are scheduled. None or 0: as they would be."""

    seed: int = 0
    switch: float | None = None
    """Seconds between two switches of threads."""
    cores: int | None = None
    """How many processors the program may run on."""
    load: int = 0
    """Processes that keep those processors busy beside it."""
    fork: float = 0.0
    """The longest delay before a fork, in seconds."""
    chance: float = 0.0
    """At a line of a function that uses locks, or of a module that is being imported, the probability of a delay."""
    delay: float = 0.0
    """The longest such delay, in seconds."""

    @classmethod
    def drawn(cls, seed: int) -> Self:
        """Those of one run: each is varied in about half of all runs, over orders of magnitude."""
        draw = random.Random(seed)

        def some() -> bool:
            return draw.random() < 0.5

        def between(low: float, high: float) -> float:
            return float(f"{10 ** draw.uniform(low, high):.2g}")

        locks = some()
        return cls(
            seed=seed,
            switch=between(-6, -1.3) if some() else None,
            cores=1 if some() else None,
            load=draw.choice((1, 2, 4)) if some() else 0,
            fork=between(-4.5, -1.5) if some() else 0.0,
            chance=between(-2.5, -0.5) if locks else 0.0,
            delay=between(-4, -1.7) if locks else 0.0,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` has written. ValueError says what is wrong."""
        kinds = {field.name: str(field.type) for field in fields(cls)}
        values: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.strip().partition("=")
            if name not in kinds:
                raise ValueError(f"{name!r} is no setting; there are {', '.join(kinds)}")
            try:
                values[name] = float(value) if "float" in kinds[name] else int(value)
            except ValueError:
                raise ValueError(f"{name}: a number expected, not {value!r}") from None
            most = {"seed": 1 << 63, "chance": 1, "load": 64, "switch": 10, "fork": 10, "delay": 10}.get(
                name, 4096
            )
            if not 0 <= values[name] <= most or (name in ("cores", "switch") and not values[name]):
                raise ValueError(f"{name}: {value} is not possible")
        return cls(**values)

    def __str__(self) -> str:
        told = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(f"{name}={value}" for name, value in told if value)

    @property
    def plain(self) -> bool:
        """Whether nothing is varied."""
        return str(self) in ("", f"seed={self.seed}")

    def cpus(self) -> Sequence[int]:
        """The processors of this machine that they mean."""
        mine = sorted(os.sched_getaffinity(0))
        if self.cores is None:
            return mine
        first = self.seed % len(mine)
        return (mine[first:] + mine[:first])[: self.cores]

    def change(self) -> dict[str, Any]:
        """For `intervene`, inside the program."""
        if self.plain:
            return {}
        how: dict[str, Any] = {"seed": self.seed}
        if self.switch is not None and self.switch != sys.getswitchinterval():
            how["switch"] = self.switch
        if self.cores is not None:
            how["cpus"] = list(self.cpus())
        if self.fork:
            how["fork"] = self.fork
        if self.chance and self.delay:
            opcodes = [dis.opmap[name] for name in _BEGIN_WITH if name in dis.opmap]
            how |= {"chance": self.chance, "delay": self.delay, "opcodes": opcodes}
        return {"disturb": how}
