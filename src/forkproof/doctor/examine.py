"""One look at one process: from its id to a diagnosis.

In this order, because each step is dearer to the process than the one before: what /proc says, twice, a moment apart; then the
stacks, for which the process is stopped only if a thread in it stands still on memory; then the words in its memory; and if a thread
waits for what another is to do, the Python stacks of the process that it was forked from, which is not stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from forkproof._events import now
from forkproof.doctor import record, stacks
from forkproof.doctor.between import Knot, Neighbours, in_memory
from forkproof.doctor.errors import DoctorError, Forbidden
from forkproof.doctor.native import is_c_library
from forkproof.doctor.objects import Objects
from forkproof.doctor.origin import lineage
from forkproof.doctor.process import Process, Region, Task, supported
from forkproof.doctor.stacks import Native, PythonFrame, Reads, Stack, Stacks, Unreadable
from forkproof.doctor.verdict import OUTSIDE, STRENGTHS, WATCH, Case, Finding
from forkproof.doctor.waits import Wait, wait_of
from forkproof.doctor.workers import lost
from forkproof.model import Diagnosis, Frame, Hang, Thread, ThreadView, WaitsFor

BETWEEN_LOOKS = 0.25
NATIVE_ONLY = "no stacks, so what follows rests on native evidence only: {}"
_PYTHON = re.compile(r"(^|/)(lib)?python[23]?(\.\d+)?[a-z]*(\.so[.\d]*)?( \(deleted\))?$")

_ADVICE = {
    "import-lock": "{what}: do it before the first thread starts (at the top of the program), or fork before that",
    "circle": "let every thread take these locks in the same order, or let go of one before it asks for the other",
    "unforked": "let go of it wherever it was taken (use `with`), and take several locks in the same order in every thread",
    "held-lock": "fork before the threads start that use this lock, or renew it in the child (os.register_at_fork)",
    "native-call": "fork before the threads start that make this call",
    "vanished-worker": "threads do not survive a fork: make the executor, thread or pool in the child, after the fork",
    "notification": "threads do not survive a fork: start the one that is to notify in the child, after the fork",
}
_BETWEEN = {
    "file-lock": "let all processes take such locks in the same order, and wait for no process (for its end, or for what it is to "
    "send) with one that it needs; after a fork open the file anew in the child",
    "process-lock": "let go of it before waiting for a process that needs it (use `with`, and take several in the same order)",
    "orphan": "a process that is killed keeps such a lock: end it by a message, not by a signal; start those that share the lock anew",
    "pipe": "close the ends that a process does not use: what it has inherited right after the fork, in the parent and in each "
    "child, and its own when it is done; data ends only when all have closed the end that writes",
    "shared": "let go of it wherever it was taken (use `with`); a process that is killed keeps it",
    "child": "send the child what it waits for, read what it writes (as subprocess's communicate() does), or end it, before waiting "
    "for its end",
}
_CURE = "; or start the program by `forkproof run`, which waits for a safe moment at each fork"


def examine(pid: int, deputy: Reads | None = None) -> Diagnosis:
    """Look at process `pid`, which is not changed; `deputy` has the stacks read instead of a reader that begins now.

    `DoctorError` says in one line why that was not possible.
    """
    if problem := supported():
        raise DoctorError(problem)
    with Process(pid) as process, nullcontext(deputy) if deputy else stacks.Reader() as reader:
        first = process.tasks()
        time.sleep(BETWEEN_LOOKS)
        tasks = process.tasks()
        still = {task.tid for task in tasks for before in first if task.is_as(before)}
        regions = process.regions()
        refused: Forbidden | None = None
        try:
            found, notes = _stacks(process, reader, regions, tasks, still)
        except Forbidden as error:
            found, notes, refused = Stacks({}, None), [NATIVE_ONLY.format(error)], error
        # Python has written down the ids that it knew, which differ in a pid namespace of the process's own.
        outer = {task.inner: task.tid for task in tasks}
        threads = {outer[tid]: stack for tid, stack in found.threads.items() if tid in outer}
        found = Stacks(threads, found.version)
        if threads and not any(stack.native for stack in threads.values()) and _stands_on_futex(tasks, still):
            notes.append("no native stacks, so what a library waits for cannot be told")
        diagnosis = diagnose(process, tasks, frozenset(still), regions, found, notes, reader)
        if refused and not diagnosis.is_deadlock:  # what is not a deadlock is seen by the stacks only
            raise refused
        return diagnosis


def _stacks(
    process: Process,
    reader: Reads,
    regions: Sequence[Region],
    tasks: Sequence[Task],
    still: set[int],
) -> tuple[Stacks, list[str]]:
    """The stacks, and what there is to say of them; Forbidden where Yama keeps them from the reader.

    A process that runs is read without stopping it, if it lets itself be.
    """
    stop = _stands_on_futex(tasks, still)
    try:
        try:
            return reader.read(process.pid, stop=stop), []
        except Unreadable:
            process.tasks()  # gone? then that is why
            if stop:
                raise
            return reader.read(process.pid, stop=True), []  # it changed under the reader's eyes
    except Unreadable as error:
        process.tasks()
        if not any(_PYTHON.search(region.path) for region in regions):
            name = process.command.split(" ")[0]
            raise DoctorError(
                f"process {process.pid} ({name}) is not a Python program, as far as can be seen"
            ) from None
        stacks.check(process.pid)
        return Stacks({}, None), [NATIVE_ONLY.format(error)]


def _stands_on_futex(tasks: Sequence[Task], still: set[int]) -> bool:
    return any(task.call is not None and task.call.is_futex and task.tid in still for task in tasks)


def diagnose(
    process: Process,
    tasks: Sequence[Task],
    still: frozenset[int],
    regions: Sequence[Region],
    found: Stacks,
    notes: list[str],
    reader: Reads,
) -> Diagnosis:
    objects = None
    if found.version:
        objects = Objects(process.read, found.version)
        if not objects.known:
            notes.append(
                f"objects of CPython {found.version[0]}.{found.version[1]} cannot be read, so no lock's owner"
            )
            objects = None
    neighbours = Neighbours(process) if process.is_alive else None
    waits = {
        task.tid: wait_of(task, found.threads.get(task.tid), process, regions, objects, neighbours)
        for task in tasks
    }
    ancestry = lineage(process)
    asks = objects is not None and any(wait.things for wait in waits.values())
    case = Case(
        process=process,
        tasks=tasks,
        still=still,
        waits=waits,
        stacks=found.threads,
        regions=regions,
        lineage=ancestry,
        record=record.find(regions, process.read),
        objects=objects,
        knots=_knots(neighbours, tasks, waits, still) if neighbours else {},
        lost=lost(ancestry, {task.inner for task in tasks}, objects, reader) if asks and objects else (),
    )
    findings = case.judge()
    if {task.tid for task in process.tasks()} != {task.tid for task in tasks}:
        notes.append("threads started or ended while the process was read")
    worst = max(tasks, key=lambda task: (_rank(findings[task.tid]), task.tid == process.pid))
    finding, wait = findings[worst.tid], waits[worst.tid]
    is_deadlock = finding.verdict in ("proven", "likely")
    return Diagnosis(
        time=now(),
        pid=process.pid,
        command=process.command,
        python=".".join(map(str, found.version)) if found.version else None,
        verdict=finding.verdict,
        proof=finding.proof,
        cause=_cause(worst, wait, finding, process),
        hazard=finding.hazard,
        advice=_advice(wait, finding, case.left_behind) if is_deadlock else "",
        origin=case.lineage.origin,
        threads=tuple(
            _view(
                task,
                waits[task.tid],
                findings[task.tid],
                found.threads.get(task.tid),
                process,
                task.tid in still,
            )
            for task in tasks
        ),
        notes=tuple(notes),
    )


def _knots(
    neighbours: Neighbours, tasks: Sequence[Task], waits: Mapping[int, Wait], still: frozenset[int]
) -> Mapping[int, Knot]:
    outside = {
        task.tid: in_memory(neighbours.process.pid) if waits[task.tid].for_ever else waits[task.tid].outside
        for task in tasks
        if task.state not in "ZX" and task.name != WATCH
    }
    return neighbours.knot(tasks, outside, still)


def _rank(finding: Finding) -> int:
    return STRENGTHS.index(finding.verdict)


def _cause(task: Task, wait: Wait, finding: Finding, process: Process) -> str:
    who = process.name_of(task)
    if finding.verdict == "none":
        of = " of its own threads" if finding.because == OUTSIDE else ""
        return "; ".join(filter(None, (f"not a deadlock{of}: {who} {wait.what}", finding.because)))
    if finding.verdict == "unknown":
        return f"{who} {wait.what} and stands still; {finding.because}"
    end = "no thread of this process can end that" if finding.proof else "probably for ever"
    if wait.outside and finding.proof:
        end = "nobody will end that" if finding.verdict == "proven" else "probably for ever"
    if finding.in_vain:
        end = "in vain"
    return f"{who} {wait.what}, and {end}: {finding.because}"


def _advice(wait: Wait, finding: Finding, left_behind: bool) -> str:
    if wait.outside:
        return _BETWEEN["orphan" if wait.outside.died else wait.outside.kind]
    if finding.hazard and finding.hazard.advice:
        return finding.hazard.advice
    if wait.kind != "import-lock" and (
        finding.circle or (wait.is_lock and not left_behind and finding.proof != "owner")
    ):
        return _ADVICE["circle" if finding.circle else "unforked"]
    module = wait.kind == "import-lock" and wait.lock and wait.lock.what.removeprefix("the import of ")
    what = f"import {module}" if module and module != "the import lock" else "import what the threads need"
    return (_ADVICE.get(wait.kind, _ADVICE["native-call"]).format(what=what)) + _CURE


def _view(
    task: Task, wait: Wait, finding: Finding, found: Stack | None, process: Process, still: bool
) -> ThreadView:
    frames = tuple(_frame(frame) for frame in found.merged) if found else ()
    name = "MainThread" if task.tid == process.pid else task.name
    waits_for = None
    if wait.for_ever and wait.kind != "work":
        lock = wait.lock if wait.is_lock else None
        what = lock.what.removeprefix("the ") if lock else wait.what.removeprefix("waits for ")
        # How the C library waits says nothing of what for.
        stack = tuple(frame for frame in frames if frame.line is not None or not is_c_library(frame.file))
        waits_for = WaitsFor(kind=wait.kind, what=what, stack=stack)
    return ThreadView(
        thread=Thread(name, None, task.tid),
        does=wait.what,
        waits_for=waits_for,
        still=still,
        stack=frames,
        verdict=finding.verdict,
        proof=finding.proof,
        because=finding.because,
    )


def _frame(frame: PythonFrame | Native) -> Frame:
    if isinstance(frame, Native):
        return Frame(frame.library, None, frame.symbol or f"{frame.address:#x}")
    return Frame(frame.file, frame.line, frame.function)


def hangs(diagnosis: Diagnosis, seconds: float) -> list[Hang]:
    """The diagnosis as `hang` events: one for each thread that waits for ever, proven or likely."""
    return [
        Hang(
            time=diagnosis.time,
            pid=diagnosis.pid,
            parent=diagnosis.origin.parent,
            fork=None,
            seconds=seconds,
            thread=view.thread,
            waits_for=view.waits_for or WaitsFor(kind="native-call", what=view.does, stack=view.stack),
            verdict=view.verdict,
            proof=view.proof,
            hazard=diagnosis.hazard,
            advice=diagnosis.advice,
        )
        for view in diagnosis.threads
        if view.verdict in ("proven", "likely")
    ]
