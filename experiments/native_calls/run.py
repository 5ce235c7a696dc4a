"""Run the experiments behind the catalogue and print a table.

    python run.py                                  every row, on this interpreter
    python run.py -p python3.12 -p python3.14 sqlite tls     rows whose name one of the patterns finds, on these
    python run.py --plain ...                      without widening any window (no strace, no shim)
    python run.py --json FILE ...                  append each result to FILE, one JSON object a line

-p takes a command, so `-p "chroot DIR python3.14"` works where DIR holds this directory at the same path; then give
--scratch a directory that both see. Linux only. strace (to slow chosen system calls down, where a lock of the C library
is held around one), gcc (for hold.c) and gdb (to say where a child hangs) are used when they are there. Rows that put
another file in the place of a system file do so in a mount namespace of their own, and need root for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import rows  # noqa: E402
from lab import Row  # noqa: E402

ROW_LIMIT = 90.0
NOISE = ("futex", "__futex", "__GI___futex", "do_futex", "__new_sem", "PyThread", "__GI___lll", "lll_", "syscall", "??", "sem_", "PyEval", "_PyEval", "PyObject", "_PyObject", "Py_", "vectorcall",
         "cfunction", "method_", "pymain", "main", "__libc_start", "_start", "run_", "function_code", "type_call",
         "pyrun", "_PyRun", "PyRun", "slot_tp", "object_vacall", "_PyVectorcall", "cancel", "__GI___pthread_")  # fmt: skip


def where(pid: int) -> str:
    """The C functions, innermost first, in which the process stands, by gdb."""
    if options.no_gdb or not shutil.which("gdb"):
        return ""
    root = os.readlink(f"/proc/{pid}/root")
    command = ["gdb", "-iex", f"set sysroot {root}", "-iex", "set debuginfod enabled off",
               "-p", str(pid), "-batch", "-ex", "bt 40"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    except subprocess.TimeoutExpired:
        return ""
    names = []
    for line in done.stdout.splitlines():
        if line.startswith("#"):
            words = line.split()
            name = words[3] if len(words) > 3 and words[2] == "in" else words[1]
            if not name.startswith(NOISE) and (not names or names[-1] != name):
                names.append(name)
    return " < ".join(names[:7])


def run_row(row: Row, python: str, widen: bool, scratch: Path) -> dict[str, Any]:
    command = [*shlex.split(python), *([] if row.site else ["-S"]), str(HERE / "rows.py"), row.name]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")}
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # leave no cache files of other interpreters beside the sources
    env["SCRATCH"] = env["TMPDIR"] = str(scratch)  # removed at the end, whatever the row leaves behind
    how = "plain"
    if row.root:
        if os.geteuid() != 0:
            return {"kind": "skipped", "why": "needs root"}
        kind, _, target = row.root.rpartition(":")
        stand_in = scratch / f"stand-in-{os.getpid()}"
        stand_in.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(stand_in)
        else:
            stand_in.write_text(kind.replace("\\n", "\n"))
        words = shlex.split(python)
        if words[0] == "chroot":
            target = words[1] + target
        inner = f"mount --bind {shlex.quote(str(stand_in))} {shlex.quote(target)} && exec " + shlex.join(
            command
        )
        command = ["unshare", "-m", "sh", "-c", inner]
        how = "mount"
    if widen and row.strace:
        if not shutil.which("strace"):
            return {"kind": "skipped", "why": "needs strace"}
        inject = ",".join(row.strace)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={inject}", "-e", "signal=none"]
        if row.path:
            strace += ["-P", row.path]
        command = [*strace, "-e", f"inject={inject}:delay_exit={row.delay}", *command]
        how = "strace"
    elif widen and row.shim:
        shim = scratch / "hold.so"
        if not shim.exists():
            subprocess.run(
                ["gcc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "hold.c", "-ldl"], check=True
            )
        env.update(HOLD_LIB=row.shim, HOLD_US=str(row.delay), LD_PRELOAD=str(shim))
        how = "shim"
    process = subprocess.Popen(
        ["nice", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        start_new_session=True, cwd=scratch,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    result: dict[str, Any] = {"kind": "failed", "why": "no result in time"}
    place = ""
    end = time.monotonic() + ROW_LIMIT
    try:
        buffer = b""
        while time.monotonic() < end:
            if not select.select([process.stdout], [], [], 1.0)[0]:
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "hung" in message:
                    place = where(message["hung"]) if how != "strace" else ""
                    os.write(process.stdin.fileno(), b"\n")
                elif "result" in message:
                    result = message["result"]
                    end = 0.0  # not at the end of the file: a row's helper processes may keep the pipe open
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        trouble = process.stderr.read().decode(errors="replace")
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    result.update(how=how, where=place, stderr="" if result["kind"] != "failed" else trouble[-600:])
    if result["kind"] == "forks" and result["failed"]:
        result["stderr"] = trouble[-300:]
    return result


def show(row: Row, version: str, result: dict[str, Any]) -> str:
    if result["kind"] == "forks":
        told = f"{result['hung']} hung of {result['forks']} forks, inside at {result['inside']}"
        if result["failed"]:
            told += f", {result['failed']} failed"
        if result["errors"]:
            told += f", holder: {result['errors'][0]}"
        if result["hung"]:
            told += f"; syscall {result['syscall']}"
    elif result["kind"] == "gil":
        told = f"others stood still {result['standstill_ms']:.1f} of {result['call_ms']:.1f} ms"
    else:
        told = f"{result['kind']}: {result['why']}"
    line = f"{row.name:44} {version:8} {result.get('how', ''):7} {told}"
    if result.get("where"):
        line += f"\n    {result['where']}"
    if result.get("stderr"):
        line += f"\n    {result['stderr']}"
    return line


options = argparse.Namespace(no_gdb=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("-p", "--python", action="append")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--only-wide", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-gdb", action="store_true")
    parser.parse_args(namespace=options)
    scratch = Path(
        tempfile.mkdtemp(prefix="native-calls-", dir=options.scratch and options.scratch.resolve())
    )
    try:
        for python in options.python or [sys.executable]:
            ask = [*shlex.split(python), "-c", "import platform; print(platform.python_version())"]
            version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
            number = tuple(int(part) for part in version.split(".")[:2])
            for row in rows.ROWS.values():
                if options.words and not any(re.search(word, row.name) for word in options.words):
                    continue
                if not rows.matches(row.needs, number):
                    continue
                wide = bool(row.strace or row.shim)
                for widen in [False, True] if wide and not options.plain else [False]:
                    if options.only_wide and wide and not widen:
                        continue
                    result = run_row(row, python, widen, scratch)
                    print(show(row, version, result), flush=True)
                    if options.json:
                        with options.json.open("a") as file:
                            file.write(json.dumps({"row": row.name, "python": version, **result}) + "\n")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
