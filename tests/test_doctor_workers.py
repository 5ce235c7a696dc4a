"""Children that wait for workers which the fork left behind, without Forkproof inside: what the doctor says whose work that was."""

from __future__ import annotations

import json
from textwrap import dedent

from conftest import Start
from doctoring import PRELUDE, examine, main_thread, stands_still

# One parent with workers of each kind; `begin(children)` forks each, and tells their ids by name.
WORKERS = """
import asyncio, json, queue, socketserver
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from multiprocessing.pool import ThreadPool

full, roomy, busy = ThreadPoolExecutor(1), ThreadPoolExecutor(4), ThreadPoolExecutor(1)
full.submit(int).result()
roomy.submit(int).result()
begun, never = threading.Event(), threading.Event()
at_work = busy.submit(lambda: (begun.set(), never.wait()))
begun.wait()
queued = busy.submit(int)
used_up = ThreadPoolExecutor(1)

def consume(q):
    while True:
        q.get()
        q.task_done()
served, bounded, read_in_turns = queue.Queue(), queue.Queue(1), queue.Queue()
for q in served, bounded, read_in_turns:
    thread(consume, q)
loop = asyncio.new_event_loop()
thread(loop.run_forever)
asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
pool = ThreadPool(1)
pool.apply(int)
server = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
thread(server.serve_forever, 0.01)

def sleeper():
    "So that the world is not closed."
    thread(lambda: [time.sleep(0.01) for _ in range(10**6)])

def begin(children):
    pids = {}
    for name, child in children.items():
        if not (pid := os.fork()):
            child()
            os._exit(0)
        pids[name] = pid
    print(json.dumps(pids), flush=True)
    time.sleep(1000)
"""

POOL = "worker of a ThreadPoolExecutor"
HANGS = {
    "a job for an executor that starts no more threads": (
        "sleeper(); full.submit(int).result()",
        ("proven", "owner", POOL),
    ),
    "the same, asked for in turns": (
        """
        sleeper()
        future = full.submit(int)
        while True:
            try: future.result(timeout=5)
            except TimeoutError: pass
        """,
        ("likely", None, POOL),
    ),
    "a job that was queued at the fork": ("sleeper(); queued.result()", ("proven", "owner", POOL)),
    "a job for an executor that starts a thread for the next": (
        "sleeper(); roomy.submit(int).result()",
        ("likely", None, POOL),
    ),
    "all of several results": ("sleeper(); wait([full.submit(int), queued])", ("likely", None, POOL)),
    "the items of a queue to be done, and nobody else is there": (
        "served.put(1); served.join()",
        ("proven", "closed-world", "consumer of a queue.Queue"),
    ),
    "a coroutine for a loop": (
        "sleeper(); asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()",
        ("likely", None, "asyncio event loop"),
    ),
    "a result of a pool": ("sleeper(); pool.apply(int)", ("likely", None, "multiprocessing.Pool")),
    "the end of a server": ("sleeper(); server.shutdown()", ("likely", None, "socketserver")),
    "a job awaited in an event loop": (
        """
        async def main():
            await asyncio.get_running_loop().run_in_executor(full, int)
        asyncio.run(main())
        """,
        ("likely", None, POOL),
    ),
}

HEALTHY = {
    "a future that a thread of its own completes": """
        future = Future()
        thread(lambda: (time.sleep(1000), future.set_result(1)))
        future.result()
    """,
    "an executor of its own that is at work": "ThreadPoolExecutor(1).submit(time.sleep, 1000).result()",
    "an inherited executor that has started a thread since": """
        waiting = roomy.submit(time.sleep, 1000)  # for the idle worker that is counted still
        roomy.submit(int)  # starts one, which begins with the first
        waiting.result()
    """,
    "an inherited queue with a consumer of its own that has an item in hand": """
        def work(get):
            get()
            time.sleep(1000)
        read_in_turns.put(1)
        thread(work, read_in_turns.get)
        read_in_turns.join()
    """,
    "one of two results is on its way": """
        mine = ThreadPoolExecutor(1).submit(time.sleep, 1000)
        next(as_completed([full.submit(int), mine]))
    """,
    "an event loop that awaits a job of an executor of its own": """
        async def main():
            await asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), time.sleep, 1000)
        asyncio.run(main())
    """,
    "an event loop in a process whose lost job nobody awaits": """
        async def main():
            full.submit(int)
            await asyncio.sleep(1000)
        asyncio.run(main())
    """,
}


def _program(bodies: dict[str, str]) -> str:
    lines = ["children = {}"]
    for name, body in bodies.items():
        lines += ["def child():", *(f"    {line}" for line in dedent(body).splitlines())]
        lines.append(f"children[{name!r}] = child")
    return PRELUDE + WORKERS + "\n".join([*lines, "begin(children)"])


Found = tuple[str, str | None, str | None]


def _found(pid: int) -> Found:
    """The verdict, the proof and the worker."""
    found = examine(pid)
    return found.verdict, found.proof, found.hazard.what if found.hazard else None


def test_whose_work_a_child_waits_for(start: Start) -> None:
    with start(
        "-W", "ignore", "-c", _program({name: body for name, (body, _) in HANGS.items()}), limit=150
    ) as program:
        pids = json.loads(program.line())
        for name, (_, expected) in HANGS.items():
            said: list[Found] = []
            program.until(lambda: said.append(_found(pids[name])) or said[-1][0] != "none")
            assert (name, said[-1]) == (name, expected)


def test_a_child_that_waits_for_workers_of_its_own(start: Start) -> None:
    with start("-W", "ignore", "-c", _program(HEALTHY), limit=150) as program:
        for name, pid in json.loads(program.line()).items():
            program.until(lambda: stands_still(pid))
            verdict, *rest = _found(pid)
            assert verdict in ("none", "unknown"), name
            assert rest == [None, None], name


def test_what_an_event_loop_awaits_is_said(start: Start) -> None:
    bodies = {
        "a job": HANGS["a job awaited in an event loop"][0],
        "one of several": """
            async def handle(): await asyncio.wrap_future(full.submit(int))
            async def main():
                task = asyncio.create_task(handle())
                await asyncio.sleep(1000)
            asyncio.run(main())
        """,
        "a timer": "async def naps(): await asyncio.sleep(1000)\nasync def main(): await naps()\nasyncio.run(main())",
        "others": """
            async def main(): await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))
            asyncio.run(main())
        """,
        "another": """
            async def naps(): await asyncio.sleep(1000)
            async def main(): await asyncio.create_task(naps())
            asyncio.run(main())
        """,
    }
    with start("-W", "ignore", "-c", _program(bodies), limit=150) as program:
        pids = json.loads(program.line())
        for name, words in {
            "a job": "child.<locals>.main() awaits a Future that a thread or a process is to complete",
            "a timer": "child.<locals>.main() > child.<locals>.naps() > sleep() awaits a future of the loop",
            "others": "child.<locals>.main() awaits several tasks or futures",
            "another": "child.<locals>.main() awaits another task, child.<locals>.naps() > sleep()",
        }.items():
            program.until(lambda: words in main_thread(examine(pids[name])))
        program.until(
            lambda: (
                "a task of its loop (child.<locals>.handle()) awaits" in examine(pids["one of several"]).cause
            )
        )
