"""What the guard has met with in this process, as plain numbers for whoever asks now and then (`forkproof.otel`).

Guarantee: counting takes no lock and calls nothing; reading changes nothing. A child begins at nothing: what its parent has
counted is the parent's to tell.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Counts:
    """Of one process, since it was started or forked."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, forks: int) -> None:
        """This process begins. `forks` is the number of the last fork before: a child's are numbered on from there."""
        self.pid = os.getpid()
        self.before = forks
        self.outcomes: dict[str, int] = {}
        """Forks by how they ended; those at which nothing was seen (`clear`) are not in it."""
        self.at_risk: dict[str, int] = {}
        """Forks that went ahead at risk, by the kind of hazard; one with hazards of two kinds is in both."""
        self.waited = 0.0
        """Seconds."""
        self.repaired = 0
        self.hung: dict[str, int] = {}
        """Threads of this process that were reported to hang, by verdict."""

    def fork(self, outcome: str, kinds: Iterable[str], waited: float, repaired: int) -> None:
        """`kinds` are those of the hazards that remained."""
        if outcome != "clear":
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome != "refused":
            for kind in {*kinds}:
                self.at_risk[kind] = self.at_risk.get(kind, 0) + 1
        self.waited += waited
        self.repaired += repaired

    def hang(self, verdict: str) -> None:
        self.hung[verdict] = self.hung.get(verdict, 0) + 1
