"""What stays behind: of a million looks, and of ten thousand forks. Nothing should.

    python benchmarks/flat.py [--looks N] [--forks N] [--generations N] [--json]

looks        The references to every object that a look meets (locks, conditions, classes, code, generators, what threads wait
             for) and the blocks of Python's allocator, before and after; other threads hold, acquire and leave meanwhile.
forks        Resident memory, blocks and descriptors of a process that forks beside busy threads, from the tenth part of its
             forks on: bare, under `wait` with an events file, and under `observe`. Each in a process of its own.
generations  The same of a child of a child of a child: each forks the next one and ends.

A debug build of Python counts all references there are (sys.gettotalrefcount); then these are told and judged as well.

Exit status 1 if something grew by more than it does bare. Resident memory may, by a MiB: allocators' arenas fill up by and by.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forkproof

KIB = 1024
GROWTH = 1024  # KiB
BLOCKS = 100
TOTAL = "references in all"


def state() -> dict[str, int]:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // KIB
    found = {
        "KiB": resident,
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
    if count := getattr(sys, "gettotalrefcount", None):
        found[TOTAL] = count()
    return found


class Manager:
    """One of the user's own."""

    def __init__(self) -> None:
        self.inner = threading.Lock()

    def __enter__(self) -> None:
        self.inner.acquire()

    def __exit__(self, *_: object) -> None:
        self.inner.release()


class Scene:
    """Threads that stand in what a look must understand, for as long as it lasts."""

    def __init__(self) -> None:
        self.lock, self.wanted, self.recursive = threading.Lock(), threading.Lock(), threading.RLock()
        self.condition, self.permits, self.manager = (
            threading.Condition(),
            threading.Semaphore(1),
            Manager(),
        )
        self.end = threading.Event()
        self._ready = threading.Barrier(6)
        self.threads = [
            threading.Thread(target=job, daemon=True)
            for job in (self.holds, self.generates, self.acquires, self.waits, self.tries)
        ]
        self.wanted.acquire()
        for thread in self.threads:
            thread.start()
        self._ready.wait()
        time.sleep(0.2)

    def _stand(self) -> None:
        self._ready.wait()
        self.end.wait()

    def holds(self) -> None:
        with self.lock, self.recursive, self.permits:
            self._stand()

    def generates(self) -> None:
        @contextmanager
        def managed() -> Iterator[None]:
            with self.manager:
                yield

        with managed():
            self._stand()

    def acquires(self) -> None:
        self._ready.wait()
        with self.wanted:
            pass

    def waits(self) -> None:
        with self.condition:
            self._ready.wait()
            self.condition.wait()

    def tries(self) -> None:
        own = threading.Lock()
        own.acquire()
        try:
            self._stand()
        finally:
            own.release()

    def objects(self) -> list[tuple[str, Any]]:
        """With names, so that what has more references at the end can be told."""
        found: list[tuple[str, Any]] = [(name, value) for name, value in vars(self).items()]
        found += [("Manager", Manager), ("Manager.inner", self.manager.inner), ("Lock", type(self.lock))]
        found += [("RLock", type(self.recursive)), ("Condition", threading.Condition)]
        found += [("acquire", type(self.lock).acquire), ("contextmanager", contextmanager)]
        for thread in self.threads:
            frame = sys._current_frames()[thread.ident or 0]
            while frame is not None:
                found.append((f"code of {frame.f_code.co_qualname}", frame.f_code))
                found.append((f"globals of {frame.f_code.co_qualname}", frame.f_globals))
                frame = frame.f_back  # type: ignore[assignment]
        return found

    def over(self) -> None:
        self.wanted.release()
        self.end.set()
        with self.condition:
            self.condition.notify_all()
        for thread in self.threads:
            thread.join()


def look(count: int) -> dict[str, Any]:
    from forkproof import _native

    forkproof.install(policy="observe", warn=False)
    scene = Scene()

    def looks(number: int) -> None:
        for _ in range(number // 2):
            _native.look()
            _native.assess(False)

    looks(2000)
    objects = scene.objects()
    before, references = state(), [sys.getrefcount(thing) for _, thing in objects]
    began = time.monotonic()
    looks(count)
    took = time.monotonic() - began
    after, now = state(), [sys.getrefcount(thing) for _, thing in objects]
    changed = {
        name: new - old
        for (name, _), old, new in zip(objects, references, now, strict=True)
        if abs(new - old) > 2
    }
    scene.over()
    return {
        "what": f"{count} looks",
        "objects": len(objects),
        "references": changed,
        "us each": round(took / count * 1e6, 1),
        **_grown(before, after),
    }


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before}


def _busy() -> Callable[[], None]:
    """Threads that take locks, and are in the middle of that at most forks."""
    lock, condition = threading.Lock(), threading.Condition()
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            with lock:
                sum(range(200))
            with condition:
                condition.notify_all()
            time.sleep(0)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        end.set()
        for thread in threads:
            thread.join()

    return stop


def fork(count: int, how: str) -> dict[str, Any]:
    stop = _busy()
    before: dict[str, int] = {}
    for number in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        if number == count // 10:
            before = state()
    found = {"what": f"{count} forks, {how}", **_grown(before, state())}
    stop()
    return found


def generations(count: int, how: str) -> dict[str, Any]:
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading) as told:
            before, after = (json.loads(line) for line in told)
        os.wait()
        return {"what": f"{count} generations, {how}", **_grown(before, after)}
    for number in range(count):
        if number in (count // 10, count - 1):
            os.write(writing, json.dumps(state()).encode() + b"\n")
        stop = _busy()
        if os.fork():
            os._exit(0)
        del stop
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--looks", type=int, default=1_000_000)
    parser.add_argument("--forks", type=int, default=10_000)
    parser.add_argument("--generations", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.part:
        part, how = asked.part
        with tempfile.TemporaryDirectory() as folder:
            if how == "wait":
                forkproof.install(warn=False, events=Path(folder, "events.jsonl"))
            elif how == "observe":
                forkproof.install(policy="observe", warn=False)
            if part == "looks":
                result = look(asked.looks)
            elif part == "forks":
                result = fork(asked.forks, how)
            else:
                result = generations(asked.generations, how)
            print(json.dumps(result))
        return 0
    status = 0
    bare: dict[str, dict[str, int]] = {}
    parts = [("looks", "observe")]
    parts += [(part, how) for part in ("forks", "generations") for how in ("bare", "wait", "observe")]
    for part, how in parts:
        if not getattr(asked, part):
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--part", part, how]
        told = subprocess.run(command, capture_output=True, text=True)
        if told.returncode:
            print(f"{part}, {how}: ended with {told.returncode}\n{told.stderr}")
            status = 1
            continue
        result = json.loads(told.stdout)
        # Vanished threads leave their frames to each child, Forkproof or not: what counts is what is more than that.
        usual = bare.get(part, result if how == "bare" else {})
        more = {
            name: result.get(name, 0) - usual.get(name, 0) for name in ("KiB", "blocks", "descriptors", TOTAL)
        }
        grew = more["KiB"] > GROWTH or max(more["blocks"], more[TOTAL]) > BLOCKS or more["descriptors"] > 0
        if how == "bare":
            bare[part] = result
        elif grew or result.get("references"):
            status = 1
        words = ", ".join(f"{name} {value}" for name, value in result.items() if name != "what")
        print(
            json.dumps(result) if asked.json else f"{result['what']}: {words}{'  GREW' if grew else ''}",
            flush=True,
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
