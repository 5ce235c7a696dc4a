"""Healthy programs, idle, slow and busy: the doctor says what they wait for, and that it is no deadlock."""

from __future__ import annotations

import time

import pytest
from conftest import Run, Start
from doctoring import doctor, looked_at, main_thread

# Each tells the id of the process to look at; the words are what its main thread is said to do.
PROGRAMS = {
    "an event of a live thread": ("waits for an Event", """
        event = threading.Event()
        thread(lambda: (time.sleep(1000), event.set()))
        tell(os.getpid())
        event.wait()
    """),
    "an event that nobody sets, in a program that was never forked": ("waits for an Event", """
        thread(time.sleep, 1000)
        tell(os.getpid())
        threading.Event().wait()
    """),
    "a child that waits for an event of its own thread": ("waits for an Event", """
        thread(time.sleep, 1000)
        def waits():
            event = threading.Event()
            thread(lambda: (time.sleep(1000), event.set()))
            event.wait()
        child(waits)
    """),
    "a lock that another thread has": ("waits for the recursive lock 'lock' of module __main__", """
        lock = threading.RLock()
        hold(lock)
        tell(os.getpid())
        with lock: pass
    """),
    "the end of a thread": ("waits for another thread to end", """
        slow = thread(time.sleep, 1000)
        tell(os.getpid())
        slow.join()
    """),
    "a child that waits for the signal to stop": ("waits for an Event", """
        import signal
        thread(time.sleep, 1000)
        def waits():
            event = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: event.set())
            event.wait()
        child(waits)
    """),
    "a child that waits for a lock that its own thread has": ("waits for the", """
        thread(time.sleep, 1000)
        def waits():
            lock = threading.RLock()
            hold(lock)
            with lock: pass
        child(waits)
    """),
    "a child that joins its own thread": ("waits for another thread to end", """
        thread(time.sleep, 1000)
        child(lambda: thread(time.sleep, 1000).join())
    """),
    "a child that waits for an item of its own thread": ("waits for an item of a Queue", """
        import queue
        thread(time.sleep, 1000)
        def waits():
            q = queue.Queue()
            thread(lambda: (time.sleep(1000), q.put(1)))
            q.get()
        child(waits)
    """),
    "idle workers of a thread pool": ("sleeps", """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(3)
        list(pool.map(time.sleep, [0.01] * 6))
        tell(os.getpid())
        time.sleep(1000)
    """),
    "a pool in a child, waited for with a slow job": ("waits for the result of a Future", """
        from concurrent.futures import ThreadPoolExecutor
        thread(time.sleep, 1000)
        def waits():
            ThreadPoolExecutor(1).submit(time.sleep, 1000).result()
        child(waits)
    """),
    "a slow server's client": ("waits for data from a socket", """
        import socket
        ours, theirs = socket.socketpair()
        thread(time.sleep, 1000)
        child(lambda: ours.recv(1))
    """),
    "a prefork worker, idle in accept": ("waits for a connection", """
        import socket
        thread(time.sleep, 1000)
        server = socket.create_server(("127.0.0.1", 0))
        child(server.accept)
    """),
    "a selector that nobody writes to": ("waits for", """
        import selectors
        thread(time.sleep, 1000)
        reading, writing = os.pipe()
        def waits():
            chosen = selectors.DefaultSelector()
            chosen.register(reading, selectors.EVENT_READ)
            chosen.select()
        child(waits)
    """),
    "an asyncio server": ("waits for events of its asyncio loop", """
        import asyncio
        async def main():
            server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            tell(os.getpid())
            await server.serve_forever()
        asyncio.run(main())
    """),
    "an asyncio program that waits for a thread": ("waits for events of its asyncio loop", """
        import asyncio
        async def main():
            tell(os.getpid())
            await asyncio.to_thread(time.sleep, 1000)
        asyncio.run(main())
    """),
    "a http server": ("waits for a connection", """
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
        thread(time.sleep, 1000)
        child(server.serve_forever)
    """),
    "a parent that waits for its child": ("waits for a child process to end", """
        thread(time.sleep, 1000)
        pid = os.fork()
        if not pid:
            time.sleep(1000)
        tell(os.getpid())
        os.waitpid(pid, 0)
    """),
    "a worker of multiprocessing.Pool, idle": ("waits for", """
        import multiprocessing
        pool = multiprocessing.get_context("fork").Pool(2)
        pool.map(abs, range(10))
        tell(pool._pool[0].pid)
        time.sleep(1000)
    """),
    "the other worker of multiprocessing.Pool, idle": ("waits for", """
        import multiprocessing
        pool = multiprocessing.get_context("fork").Pool(2)
        pool.map(abs, range(10))
        tell(pool._pool[1].pid)
        time.sleep(1000)
    """),
    "the owner of multiprocessing.Pool, idle": ("waits for a signal", """
        import multiprocessing, signal
        pool = multiprocessing.get_context("fork").Pool(2)
        pool.map(abs, range(10))
        tell(os.getpid())
        signal.pause()
    """),
    "a thread that waits for an item of a SimpleQueue": ("waits for an item of a SimpleQueue", """
        import queue
        thread(time.sleep, 1000)
        def puts(q):
            time.sleep(1000)
            q.put(1)
        def waits(q):
            thread(puts, q)
            q.get()
        child(lambda: waits(queue.SimpleQueue()))
    """),
    "a worker of a process pool, idle": ("waits for", """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
        list(pool.map(abs, range(10)))
        tell(next(iter(pool._processes)))
        time.sleep(1000)
    """),
    "a multiprocessing lock that another process has": ("waits for a lock that processes share", """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        lock = context.Lock()
        lock.acquire()
        thread(time.sleep, 1000)
        def waits():
            with lock: pass
        child(waits)
    """),
    "a multiprocessing queue that is empty": ("waits for an item of a queue that processes share", """
        import multiprocessing
        q = multiprocessing.get_context("fork").Queue()
        q.put(1); q.get()
        thread(time.sleep, 1000)
        child(q.get)
    """),
    "workers of a supervisor that a signal wakes": ("waits for an item of a queue that processes share", """
        import multiprocessing, signal
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        context = multiprocessing.get_context("fork")
        q = context.Queue()
        workers = [context.Process(target=q.get) for _ in range(2)]
        for worker in workers: worker.start()
        tell(workers[1].pid)
        workers[0].join()
    """),
    "a file that a process has locked which goes on": ("to unlock", """
        import fcntl, tempfile
        file = tempfile.NamedTemporaryFile()
        fcntl.lockf(file, fcntl.LOCK_EX)
        thread(time.sleep, 1000)
        child(lambda: fcntl.lockf(open(file.name, "w"), fcntl.LOCK_EX))
    """),
    "a debugger's prompt": ("waits for a command for the debugger", """
        import pdb
        thread(time.sleep, 1000)
        reading, writing = os.pipe()
        def waits():
            os.dup2(reading, 0)
            os.dup2(2, 1)
            sys.stdin = open(0)
            pdb.set_trace()
            print("after")
        child(waits)
    """),
    "a child that sleeps": ("sleeps", """
        thread(time.sleep, 1000)
        child(lambda: time.sleep(1000))
    """),
    "a child that waits for a child process": ("waits for a child process to end", """
        import subprocess
        thread(time.sleep, 1000)
        child(lambda: subprocess.run(["sleep", "1000"]))
    """),
    "a child that waits for input": ("reads from a pipe", """
        thread(time.sleep, 1000)
        reading, writing = os.pipe()
        child(lambda: os.read(reading, 1))
    """),
    "a wait with a limit, renewed": ("waits for some time for an Event", """
        thread(time.sleep, 1000)
        def waits():
            while not threading.Event().wait(0.5): pass
        child(waits)
    """),
    "two interpreter threads of a child, one at work with the lock": ("", """
        thread(time.sleep, 1000)
        def waits():
            lock = threading.Lock()
            def works():
                with lock:
                    taken.set()
                    while True: pass
            taken = threading.Event()
            thread(works)
            taken.wait()
            with lock: pass
        child(waits)
    """),
}  # fmt: skip

# Where a lock does not say who has it; or names a thread by a number that one of the parent's may have had.
NOT_SEEN = {
    "a child that waits for a lock that its own thread has": "unless it is one that the fork left behind",
    "two interpreter threads of a child, one at work with the lock": "the lock does not say who has it",
}

BUSY = {
    "a long computation": """
        thread(time.sleep, 1000)
        def computes():
            sum(range(10**12))
        child(computes)
    """,
    "threads that contend for a lock": """
        lock = threading.Lock()
        def contends():
            while True:
                with lock: sum(range(1000))
        thread(time.sleep, 1000)
        def waits():
            for _ in range(3): thread(contends)
            contends()
        child(waits)
    """,
    "threads that import": """
        def imports():
            while True:
                sys.modules.pop("colorsys", None)
                try: import colorsys
                except (ImportError, KeyError): pass
        thread(time.sleep, 1000)
        def waits():
            for _ in range(3): thread(imports)
            imports()
        child(waits)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_idle(run: Run, start: Start, name: str) -> None:
    words, program = PROGRAMS[name]
    with looked_at(start, program) as pid:
        status, (found,) = doctor(run, pid)
    assert (status, found.verdict) in ((0, "none"), (0, "unknown")), found.cause
    assert found.proof is None
    assert words in main_thread(found)
    if found.verdict == "none":
        assert found.cause.startswith("not a deadlock")
    else:  # only where it is not seen whether a thread of the fork's was to end the wait
        assert NOT_SEEN.get(name, "?") in found.cause


@pytest.mark.parametrize("name", BUSY)
def test_busy(start: Start, name: str) -> None:
    from forkproof.doctor.examine import examine

    with looked_at(start, BUSY[name], still=False) as pid:
        for _ in range(5):
            found = examine(pid)
            assert found.verdict == "none", found.cause
            time.sleep(0.05)
