"""Events for people: one renderer a file, all from `model`, and the reader of event lines."""

from forkproof.report.base import Renderer
from forkproof.report.jsonl import EventLines, Pairing, events_in
from forkproof.report.terminal import Terminal

__all__ = ["EventLines", "Pairing", "Renderer", "Terminal", "events_in"]
