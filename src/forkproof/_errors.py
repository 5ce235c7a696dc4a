"""What Forkproof warns of and raises."""

from __future__ import annotations


class ForkRiskWarning(RuntimeWarning):
    """A fork went ahead although another thread held something that the child may need."""


class ForkRiskError(RuntimeError):
    """A fork was refused (policy "raise") because another thread held something that the child may need."""
