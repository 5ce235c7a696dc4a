"""What every renderer is: something that takes events one by one, in the order in which they came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TextIO

from forkproof.model import Event


class Renderer(ABC):
    """Shows events on a stream. Each event is complete when it comes and is never taken back."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @abstractmethod
    def show(self, event: Event) -> None:
        """Take one event; it may be shown now, later, or only counted."""

    def begin(self) -> None:  # noqa: B027  # to most it makes no difference
        """What comes next is of another run, whose process ids have nothing to do with those before."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something about the events as they were found, as that lines were left out."""

    @abstractmethod
    def finish(self) -> None:
        """No more events come: show what was held back, and the closing summary."""
