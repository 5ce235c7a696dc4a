"""What a child does with the events that sentry-sdk's worker in the parent had yet to send.

    python experiments/workers/sentry_queue.py

A server on loopback does not answer the parent's first event until the fork is over; two more are in the queue then, which the
child has a copy of. Prints what the server got, bare and under policy `wait`. Needs sentry-sdk and forkproof.
"""

import gzip
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import sentry_sdk

asked, answers = threading.Event(), threading.Event()
got = []


class Ingest(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        got.append(json.loads(body.splitlines()[2])["message"])
        asked.set()
        answers.wait()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def program(port, policy, told, go):
    if policy:
        import forkproof

        forkproof.install(policy, wait=3, warn=False)
    dsn = f"http://public@127.0.0.1:{port}/7"
    sentry_sdk.init(dsn, default_integrations=False, auto_session_tracking=False, send_client_reports=False)
    for number in range(3):
        sentry_sdk.capture_message(f"parent {number}")
    os.read(go, 1)
    pid = os.fork()
    if not pid:
        sentry_sdk.capture_message("child")
        sentry_sdk.flush(3)
        os._exit(0)
    os.write(told, b"x")
    os.waitpid(pid, 0)
    sentry_sdk.flush(3)
    os._exit(0)


def main(policy):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ingest)
    (forked, told), (go, begin) = os.pipe(), os.pipe()
    pid = os.fork()  # no thread yet
    if not pid:
        program(server.server_address[1], policy, told, go)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked.wait()
    os.write(begin, b"x")
    os.read(forked, 1)
    answers.set()
    os.waitpid(pid, 0)
    print(f"{policy or 'bare'}: {', '.join(sorted(got))}", flush=True)


if __name__ == "__main__":
    for policy in ("", "wait"):
        if not os.fork():
            main(policy)
            sys.exit()
        os.wait()
