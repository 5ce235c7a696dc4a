"""Healthy programs, idle, slow and busy: what healthy.py puts the doctor in front of, and the tests."""

from __future__ import annotations

import time
from collections.abc import Callable

from forkproof.doctor.process import Process, Task

# `hold(lock)` has a thread take the lock and keep it; `child(f)` forks, runs f there, and tells the test its id.
PRELUDE = '''
import os, sys, threading, time

def thread(function, *args):
    t = threading.Thread(target=function, args=args, daemon=True)
    t.start()
    return t

def hold(lock):
    held = threading.Event()
    def keep():
        with lock:
            held.set()
            time.sleep(1000)
    thread(keep)
    held.wait()

def hold_among_others(lock):
    """The first thread that the child starts gets the ident of the first or the last thread that vanished: not this one's."""
    hold(threading.Lock())
    hold(lock)
    hold(threading.Lock())

def tell(pid):
    print(pid, flush=True)

def child(function):
    pid = os.fork()
    if not pid:
        try:
            function()
        finally:
            os._exit(0)
    tell(pid)
    os.waitpid(pid, 0)
'''

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
    "a pool in a child that is shut down while a job runs": ("waits for the threads of an executor to end", """
        from concurrent.futures import ThreadPoolExecutor
        thread(time.sleep, 1000)
        def waits():
            with ThreadPoolExecutor(1) as pool: pool.submit(time.sleep, 1000)
        child(waits)
    """),
    "a threading.Timer": ("waits for another thread to end", """
        timer = threading.Timer(1000, print)
        timer.daemon = True
        timer.start()
        tell(os.getpid())
        timer.join()
    """),
    "the thread of a threading.Timer, in a child": ("sleeps", """
        thread(time.sleep, 1000)
        def waits():
            timer = threading.Timer(1000, print)
            timer.daemon = True
            timer.start()
            time.sleep(1000)
        child(waits)
    """),
    "a scheduler": ("sleeps", """
        import sched
        thread(time.sleep, 1000)
        jobs = sched.scheduler()
        jobs.enter(1000, 1, print)
        child(jobs.run)
    """),
    "a server with a thread for each connection": ("waits for", """
        import socket, socketserver
        class Reads(socketserver.BaseRequestHandler):
            def handle(self): self.request.recv(1)
        class Server(socketserver.ThreadingTCPServer): daemon_threads = True
        def serves():
            server = Server(("127.0.0.1", 0), Reads)
            kept.extend(socket.create_connection(server.server_address) for _ in range(3))
            server.serve_forever()
        kept = []
        thread(time.sleep, 1000)
        child(serves)
    """),
    "a server by epoll": ("waits for", """
        import select, socket
        server = socket.create_server(("127.0.0.1", 0))
        def waits():
            ready = select.epoll()
            ready.register(server.fileno())
            ready.poll()
        thread(time.sleep, 1000)
        child(waits)
    """),
    "a server by select": ("waits for", """
        import select, socket
        server = socket.create_server(("127.0.0.1", 0))
        thread(time.sleep, 1000)
        child(lambda: select.select([server], [], []))
    """),
    "a prefork server's first process": ("waits for a child process to end", """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        for _ in range(3):
            if not os.fork(): server.accept()
        thread(time.sleep, 1000)
        tell(os.getpid())
        os.wait()
    """),
    "threads that wait for what the main thread gets from a socket": ("waits for a connection", """
        import queue, socket
        server = socket.create_server(("127.0.0.1", 0))
        thread(time.sleep, 1000)
        def waits():
            work = queue.Queue()
            for _ in range(3): thread(work.get)
            while True: work.put(server.accept())
        child(waits)
    """),
    "a wait for one of several signals": ("waits for a signal", """
        import signal
        thread(time.sleep, 1000)
        child(lambda: signal.sigwait({signal.SIGTERM, signal.SIGHUP}))
    """),
    "a database that another connection has locked": ("sleeps", """
        import sqlite3, tempfile
        folder = tempfile.TemporaryDirectory()
        holder = sqlite3.connect(folder.name + "/data")
        holder.execute("begin exclusive")
        thread(time.sleep, 1000)
        child(lambda: sqlite3.connect(folder.name + "/data", timeout=1000).execute("begin exclusive"))
    """),
    "a question to a person": ("reads from", """
        thread(time.sleep, 1000)
        reading, writing = os.pipe()
        def asks():
            os.dup2(reading, 0)
            sys.stdin = open(0)
            input()
        child(asks)
    """),
    "the output of a slow program, awaited": ("waits for", """
        import subprocess
        thread(time.sleep, 1000)
        child(lambda: subprocess.check_output(["sleep", "1000"]))
    """),
    "a pause until a signal comes": ("waits for a signal", """
        import signal
        thread(time.sleep, 1000)
        child(signal.pause)
    """),
    "a Barrier that a living thread is to come to": ("waits for", """
        thread(time.sleep, 1000)
        def waits():
            barrier = threading.Barrier(2)
            thread(lambda: (time.sleep(1000), barrier.wait()))
            barrier.wait()
        child(waits)
    """),
    "a log that a thread writes": ("waits for data from a socket", """
        import logging, logging.handlers, queue, socket
        ours, theirs = socket.socketpair()
        thread(time.sleep, 1000)
        def waits():
            log = logging.getLogger()
            log.addHandler(handler := logging.handlers.QueueHandler(queue.Queue()))
            logging.handlers.QueueListener(handler.queue, logging.NullHandler()).start()
            while True: log.warning("%r", ours.recv(1))
        child(waits)
    """),
    "a manager's server process": ("waits for", """
        import multiprocessing
        manager = multiprocessing.get_context("fork").Manager()
        manager.dict()
        tell(manager._process.pid)
        time.sleep(1000)
    """),
    "an asyncio consumer whose queue a thread feeds": ("waits for events of its asyncio loop", """
        import asyncio
        thread(time.sleep, 1000)
        async def main():
            work = asyncio.Queue()
            loop = asyncio.get_running_loop()
            thread(lambda: (time.sleep(1000), loop.call_soon_threadsafe(work.put_nowait, 1)))
            await work.get()
        child(lambda: asyncio.run(main()))
    """),
    "gunicorn's first process": ("", """
        import gunicorn.app.base
        class App(gunicorn.app.base.BaseApplication):
            def load_config(self):
                for name, value in {"bind": "127.0.0.1:0", "workers": 2, "loglevel": "critical", "when_ready": ready}.items():
                    self.cfg.set(name, value)
            def load(self): return lambda environ, answer: []
        def ready(server): tell(os.getpid())
        App().run()
    """),
    "a worker of gunicorn with threads, idle": ("waits for", """
        import gunicorn.app.base
        class App(gunicorn.app.base.BaseApplication):
            def load_config(self):
                options = {"bind": "127.0.0.1:0", "threads": 4, "loglevel": "critical", "post_worker_init": ready}
                for name, value in options.items(): self.cfg.set(name, value)
            def load(self): return lambda environ, answer: []
        def ready(worker): tell(os.getpid())
        thread(time.sleep, 1000)
        App().run()
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


def stands_still(pid: int, waits: Callable[[Task], bool] = lambda task: task.call is not None) -> bool:
    """Whether no thread of the process has run within a twentieth of a second, and the main one waits so."""
    with Process(pid) as process:
        before = process.tasks()
        time.sleep(0.05)
        after = process.tasks()
    main = after[0].is_as(before[0]) and waits(after[0])
    return main and len(before) == len(after)
