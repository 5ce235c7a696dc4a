"""A multiprocessing context whose forks are watched, for code that says where it wants its processes from.

From Python 3.14 on the default start method on Linux is `forkserver`, because fork and threads do not go together. Where
they are made to, there is again a way of starting that costs a few milliseconds and shares the memory of the parent:

    ProcessPoolExecutor(mp_context=forkproof.get_context())
    torch.utils.data.DataLoader(..., multiprocessing_context=forkproof.get_context())
"""

from __future__ import annotations

from . import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import ForkContext


def get_context() -> ForkContext:
    """multiprocessing's `fork` context, with Forkproof on: installed as by `install()` where it is not yet.

    Raises ValueError where the system has no fork().
    """
    import multiprocessing  # here, because most programs that import forkproof do without it

    context = multiprocessing.get_context("fork")
    if not guard.installed():
        guard.install()
    return context
