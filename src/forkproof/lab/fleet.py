"""The runs of a hunt on many machines: through Dask, whose scheduler knows which worker has ended and whose work is to be done
again.

A task is a batch of numbered runs; its result is theirs, all or none. What a worker that was killed had begun is begun
again elsewhere, by Dask, or here when Dask gives a task up (it blames a task on which several workers have died).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from forkproof.lab.hunt import Plan, Result
from forkproof.launch.target import LaunchError

_SECONDS = 4.0
"""What a batch is to take: short beside a hunt, long beside the way to a worker."""
_MOST = 500
_ATTEMPTS = 5


class BatchError(Exception):
    """A worker can make no runs: one line that says why."""


def on_dask(plan: Plan, numbers: Iterable[int], address: str) -> Iterator[Result]:
    """The runs so numbered, on the workers of the scheduler at `address`; in the order in which batches end.

    LaunchError where there is no such scheduler, where it has no workers, and where they cannot run the program.
    """
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError:
        raise LaunchError(
            "--dask needs distributed; install it with: pip install 'forkproof[dask]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what becomes of workers is dealt with here
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise LaunchError(f"no Dask scheduler at {address!r} ({why}); check the address") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=30)
        except TimeoutError:
            raise LaunchError(f"the Dask scheduler at {address!r} has no workers; start some") from None
        waiting = iter(numbers)
        going: dict[Any, tuple[list[int], int]] = {}
        done = as_completed(loop=client.loop)
        size = 1

        def submit(batch: list[int], attempt: int = 1) -> None:
            task = client.submit(run_batch, plan.to_json(), batch, pure=False)
            going[task] = batch, attempt
            done.add(task)

        def fill() -> None:
            room = 2 * sum(client.nthreads().values()) or 2
            while len(going) < room and (batch := list(islice(waiting, size))):
                submit(batch)

        try:
            fill()
            while going:
                task = next(done)
                batch, attempt = going.pop(task)
                if task.status == "finished":
                    results = [Result.from_json(each) for each in task.result()]
                    took = sum(result.ended.seconds for result in results) / len(results)
                    size = max(1, min(_MOST, int(_SECONDS / max(took, 0.01)), 2 * size))
                    yield from results
                else:
                    problem = task.exception() if task.status == "error" else None
                    if isinstance(problem, BatchError):
                        raise LaunchError(f"a Dask worker {problem}")
                    if attempt == _ATTEMPTS:
                        why = f": {type(problem).__name__}: {problem}" if problem else ""
                        raise LaunchError(f"Dask gave up the same runs {attempt} times{why}"[:500])
                    submit(batch, attempt + 1)
                fill()
        finally:
            client.cancel(list(going))


def run_batch(plan: dict[str, Any], numbers: list[int]) -> list[dict[str, Any]]:
    """On a worker: these runs, in a process beside it; `Result`s as JSON. BatchError where that cannot be."""
    asked = {"plan": plan, "numbers": numbers, "asks": os.getpid()}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "forkproof.lab.batch"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            cwd=plan["folder"],
        )
    except OSError as error:
        raise BatchError(f"cannot run there: {error}") from None
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    if ended.returncode or len(results) != len(numbers):
        last = (ended.stderr.splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"ended with status {ended.returncode}: {last[:300]}")
    return results
