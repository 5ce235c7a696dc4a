"""A MongoDB for the MongoClient programs: the user's own (`MONGODB_URI`), or SecantusDB on a free port.

SecantusDB runs in a process of its own: the program that is looked at must not have its threads.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def lacking() -> str | None:
    """What has to be installed first, in a sentence; None if nothing."""
    wanted = ["pymongo"] if os.environ.get("MONGODB_URI") else ["pymongo", "secantus"]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join({"secantus": "SecantusDB", "pymongo": "PyMongo"}[name] for name in missing)
        return f"needs {names}: pip install 'forkproof[lab]', or set MONGODB_URI to a server of your own"
    return None


@contextmanager
def mongodb() -> Iterator[str]:
    """The URI of a server that lives as long as the `with`. RuntimeError if it does not start."""
    if os.environ.get("MONGODB_URI"):
        yield os.environ["MONGODB_URI"]
        return
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        with server:
            assert server.stdout
            try:
                port = server.stdout.readline().strip()
                if not port.isdigit():
                    raise RuntimeError("SecantusDB did not start")
                yield f"mongodb://localhost:{port}/"
            finally:
                server.kill()


def _serve(folder: str) -> None:
    """Until stdin ends, which it does however the other process ends."""
    from secantus import SecantusDBServer

    with SecantusDBServer(storage_path=folder) as server:
        print(server.uri.rstrip("/").rpartition(":")[2], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
