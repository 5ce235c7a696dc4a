"""What the programs of the watch's tests have in common: a fork at risk, a child that does something, and what was said."""

from __future__ import annotations

from textwrap import dedent

from forking import PRELUDE

WATCHED = '''
import json, signal

def events(kind):
    with open(FILE) as file:
        found = [json.loads(line) for line in file if line.endswith("\\n")]
    return [event for event in found if event["event"] == kind]

def child_of(child):
    """A forked process that runs child(), in a group of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            child()
            status = 0
        finally:
            os._exit(status)
    os.setpgid(pid, pid)  # here too: it may hang before it comes to that
    return pid

def leave():
    """End at once, without what threads that hang hold up at an ordinary end."""
    sys.stdout.flush()
    os._exit(0)

def end(pid):
    """With all that it started."""
    os.killpg(pid, 9)
    os.waitpid(pid, 0)

def hang_of(child, kind="hang", limit=20.0):
    """The first event of that kind of a process that runs child(); the process is ended."""
    pid = child_of(child)
    try:
        until(lambda: any(event["pid"] == pid for event in events(kind)), limit)
    finally:
        end(pid)
    return next(event for event in events(kind) if event["pid"] == pid)

def told(event):
    hazard = event["hazard"]
    print(event["thread"]["name"], event["verdict"], event["proof"], event["waits_for"]["kind"], sep="|")
    print(hazard and hazard["thread"]["name"], hazard and hazard["what"], sep="|")

def healthy(child, seconds=1.0):
    """Whether a process that runs child() for that long, three times hang_after, is left in peace."""
    pid = child_of(child)
    time.sleep(seconds)
    done, status = os.waitpid(pid, os.WNOHANG)
    assert not done or status == 0, f"it ended with {status}"
    if not done:
        end(pid)
    print("hangs:", [(e["thread"]["name"], e["waits_for"], e["proof"]) for e in events("hang") if e["pid"] == pid])
    print("faults:", [e["message"] for e in events("fault")])
'''

HELD = """
held = threading.Lock()
gone = threading.Event()
def hold():
    with held:
        gone.set()
        threading.Event().wait()
t = threading.Thread(target=hold, name="holder", daemon=True)
t.start()
gone.wait()
"""
"""A thread called `holder` that holds the lock `held` at every fork."""


def watched(file: object, *parts: str, options: str = "policy='observe', hang_after=0.3") -> str:
    """A program that forks under the watch, with its events in `file`."""
    start = f"FILE = {str(file)!r}\nforkproof.install(events=FILE, warn=False, {options})\n"
    return PRELUDE + start + WATCHED + "\n".join(dedent(part) for part in parts)


SIDE_BY_SIDE = """
import multiprocessing

def side_by_side(children, over):
    "Fork each; once over(their pids by name) the children are ended, and what was said of each is printed."
    pids = {name: child_of(child) for name, child in children.items()}
    try:
        until(lambda: over(pids), 60)
    finally:
        for pid in pids.values(): end(pid)
        for process in multiprocessing.active_children(): process.kill()
    hangs = {event["pid"]: event for event in events("hang")}
    print(json.dumps({name: hangs.get(pid) for name, pid in pids.items()}))
    assert not events("fault"), events("fault")
    leave()
"""

UNTIL_TOLD = """
def all_told(pids):
    return set(pids.values()) <= {event["pid"] for event in events("hang")}
side_by_side(children, all_told)
"""

LONG_ENOUGH = """
def is_watched(pid):
    names = [open(f"/proc/{pid}/task/{task}/comm").read() for task in os.listdir(f"/proc/{pid}/task")]
    return "forkproof-watch\\n" in names
def long_enough(pids):
    until(lambda: all(map(is_watched, pids.values())), 30)
    time.sleep(1.2)
    return all(map(is_watched, pids.values()))
side_by_side(children, long_enough)
"""
"""All of them are watched, for four times hang_after."""


def children_of(table: dict[str, str]) -> str:
    """`children`, a dictionary of functions by name, of these bodies."""
    lines = ["children = {}"]
    for name, body in table.items():
        body = "\n".join(f"    {line}" for line in dedent(body).splitlines())
        lines += ["def child():", body, f"children[{name!r}] = child"]
    return "\n".join(lines)
