"""Fork twenty times while a client's monitor is at work, and have each child use the client.

    python demo.py hang_prone
    python demo.py fork_proof

A number after that is for how many seconds a child may take.
"""

import importlib
import os
import socketserver
import sys
import threading
import time

CHILDREN = 20
LIMIT = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0


class Server(socketserver.ThreadingTCPServer):
    """Answers each line with itself; takes its time for a ping, so that the monitor is nearly always waiting for one."""

    daemon_threads = True
    allow_reuse_address = True


class Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            time.sleep(0.05 if line == b"ping\n" else 0)
            self.wfile.write(line)


def child_answers(client, number: int) -> bool:
    """Whether a forked child gets its answer within the limit."""
    pid = os.fork()
    if pid == 0:
        answer = client.ask(f"hello from child {number}")
        os._exit(answer != f"hello from child {number}")
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def main() -> None:
    client_module = importlib.import_module(sys.argv[1])
    with Server(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = client_module.Client(server.server_address)
        assert client.ask("hello") == "hello"
        for number in range(1, CHILDREN + 1):
            if not child_answers(client, number):
                sys.stdout.write(f"child {number} had no answer\n")
                sys.stdout.flush()
                os._exit(1)
        sys.stdout.write(f"{CHILDREN} of {CHILDREN} children had their answers\n")
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
