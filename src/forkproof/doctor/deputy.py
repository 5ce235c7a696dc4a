"""A process that has stacks read for another, and was there before those whose stacks they are: so they can name it to Yama.

Under Yama's `ptrace_scope` 1 an ancestor may look at a process, and a reader that it starts may not, unless the process has named
that reader, or a forebear of it, by prctl(PR_SET_PTRACER). A reader is a process of its own for each look (see stacks.py), too late for
that. This one starts them, and has no other children: who names it lets in its readers, and nobody else.

It is in a session of its own, so that signals from a terminal mean the program only, and ends when its maker has closed it or has
ended.
"""

from __future__ import annotations

import pickle
import sys

from forkproof.doctor.stacks import Reader, Stacks, Unreadable, helper


class Deputy:
    """Reads as a `Reader` does, again and again; from one thread at a time."""

    def __init__(self) -> None:
        self._process = helper("from forkproof.doctor.deputy import serve; serve()", start_new_session=True)

    @property
    def pid(self) -> int:
        """The process that is to be named."""
        return self._process.pid

    def read(self, pid: int, *, stop: bool) -> Stacks:
        """The stacks of process `pid`; Unreadable where there are none, as of a Reader."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            pickle.dump((pid, stop), self._process.stdin)
            self._process.stdin.flush()
            answered = pickle.load(self._process.stdout)
        except (OSError, EOFError):
            raise Unreadable("the process that has stacks read has ended") from None
        if isinstance(answered, str):
            raise Unreadable(answered)
        assert isinstance(answered, Stacks)
        return answered

    def close(self) -> None:
        """End it, also while it is asked."""
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """The other side: processes to read on stdin, their stacks or why there are none on stdout."""
    while True:
        try:
            pid, stop = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Stacks | str
        try:
            with Reader() as reader:
                answer = reader.read(pid, stop=stop)
        except Unreadable as error:
            answer = str(error)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
