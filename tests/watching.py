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
