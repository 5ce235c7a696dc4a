"""The command `forkproof doctor`: which processes, how often, and in which form it is said."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

from forkproof.doctor.errors import DoctorError, Gone
from forkproof.doctor.examine import examine
from forkproof.doctor.lookout import Lookout
from forkproof.doctor.process import Process, family
from forkproof.doctor.stacks import check
from forkproof.model import Diagnosis
from forkproof.report.diagnosis import Doctor

FINE, DEADLOCK, FAILED = 0, 1, 2
_EVERY = 1.0


def doctor(
    pid: int | None, *, as_json: bool, tree: bool, watch: bool, hang_after: float, core: str | None
) -> int:
    """Look, and say what was found; the exit status."""
    try:
        if core is not None:
            from forkproof.doctor.core import examine_core

            return show([examine_core(core)], as_json)
        if pid is None:
            return _fail("which process? Give its id, or a core file with --core")
        if watch:
            return _watch(pid, as_json, tree, hang_after)
        if tree:
            return show(_family(pid), as_json)
        return show([examine(pid)], as_json)
    except DoctorError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _family(pid: int) -> Iterable[Diagnosis]:
    """All that can be looked at; what cannot be is said, and an error only if it is `pid` itself."""
    yield examine(pid)
    for one in family(pid)[1:]:
        try:
            yield examine(one)
        except Gone:
            continue
        except DoctorError as error:
            _say(str(error))


def show(found: Iterable[Diagnosis], as_json: bool) -> int:
    """Print each; the exit status for what was found."""
    report = Doctor(sys.stdout)
    status = FINE
    for diagnosis in found:
        if as_json:
            print(json.dumps(diagnosis.to_json(), ensure_ascii=False), flush=True)
        else:
            report.diagnosis(diagnosis)
        if diagnosis.is_deadlock:
            status = DEADLOCK
    return status


def _watch(pid: int, as_json: bool, tree: bool, hang_after: float) -> int:
    with Process(pid):
        check(pid)
    lookout = Lookout(lambda: family(pid) if tree else [pid], hang_after)
    began = time.monotonic()
    progress = sys.stderr.isatty()
    if not progress:
        _say(f"watching process {pid}{' and its descendants' if tree else ''}")
    looks = 0
    try:
        while True:
            alarms = [alarm.diagnosis for alarm in lookout.look()]
            if alarms:
                return show(alarms, as_json)
            if not lookout.watched:
                assert lookout.refused
                if looks and isinstance(lookout.refused, Gone):
                    return FINE
                raise lookout.refused
            for why in lookout.told_once():
                _say(why)
            looks += 1
            if progress:
                processes = f"{lookout.watched} process{'' if lookout.watched == 1 else 'es'}"
                told = f"forkproof: watching {processes}, none hangs ({time.monotonic() - began:.0f} s)"
                print(f"\r{told}\x1b[K", end="", file=sys.stderr, flush=True)
            time.sleep(_EVERY)
    finally:
        if progress:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fail(why: str) -> int:
    _say(why)
    return FAILED


def _say(text: str) -> None:
    print(f"forkproof: {text}", file=sys.stderr)
