"""Servers for the programs, each in processes of its own, that live as long as a `with`.

PostgreSQL, MariaDB, Redis, memcached and RabbitMQ are Debian's; SecantusDB comes with forkproof[lab]; the HTTP
server is Python's own. `lacking(kind)` says what is not there.
"""

import contextlib
import glob
import http.server
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def lacking(kind):
    """What has to be installed for that server, in a sentence; None if nothing."""
    if kind == "postgresql" and not _postgresql():
        return "needs PostgreSQL: apt-get install postgresql"
    for needed, program, package in (
        ("redis", "redis-server", "redis-server"),
        ("memcached", "memcached", "memcached"),
        ("mariadb", "mariadb-install-db", "mariadb-server"),
        ("rabbitmq", "epmd", "rabbitmq-server"),
    ):
        if kind == needed and not shutil.which(program):
            return f"needs {program}: apt-get install {package}"
    if kind == "mongodb" and importlib.util.find_spec("secantus") is None:
        return "needs SecantusDB: pip install 'forkproof[lab]'"
    return None


@contextlib.contextmanager
def server(kind):
    """Its address, as the programs take it: "127.0.0.1:PORT"."""
    with SERVERS[kind]() as address:
        yield address


def _postgresql():
    """The folder of its programs, "" where it is not installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return os.path.dirname(found[-1]) if found else os.path.dirname(shutil.which("postgres") or "")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until(answers, process=None, limit=60):
    end = time.monotonic() + limit
    while not answers():
        if (process and process.poll() is not None) or time.monotonic() > end:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)


def _accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def _running(command, port, **options):
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        _until(lambda: _accepts(port), process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def postgresql():
    """A new cluster, that trusts everybody on the loopback address; user and database are called postgres."""
    programs, port = _postgresql(), _free_port()
    who = {}
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        if os.geteuid() == 0:  # it refuses to run as root
            person = pwd.getpwnam("postgres")
            os.chown(folder, person.pw_uid, person.pw_gid)
            who = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": []}
        subprocess.run(
            [f"{programs}/initdb", "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "--no-sync"],
            check=True, capture_output=True, cwd=folder, **who,
        )  # fmt: skip
        command = [f"{programs}/postgres", "-D", f"{folder}/data", "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with _running(command, port, cwd=folder, **who) as address:
            _until(lambda: _takes_queries(programs, port))
            yield address


def _takes_queries(programs, port):
    """It accepts connections before it is ready for them."""
    return (
        subprocess.run([f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0
    )


@contextlib.contextmanager
def redis():
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        with _running(command, port) as address:
            yield address


@contextlib.contextmanager
def memcached():
    port = _free_port()
    with _running(
        ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", *_as("nobody")], port
    ) as address:
        yield address


def _as(person):
    """Servers that refuse to run as root take this option."""
    return ["-u", person] if os.geteuid() == 0 else []


@contextlib.contextmanager
def mariadb():
    """A new database, whose root has no password."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        data = [f"--datadir={folder}/data"]
        if os.geteuid() == 0:
            person = pwd.getpwnam("mysql")
            os.chown(folder, person.pw_uid, person.pw_gid)
            data += ["--user=mysql"]
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", *data, "--auth-root-authentication-method=normal"],
            check=True, capture_output=True,
        )  # fmt: skip
        program = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        command = [program, "--no-defaults", *data, f"--port={port}", "--bind-address=127.0.0.1"]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        with _running(command, port) as address:
            yield address


@contextlib.contextmanager
def rabbitmq():
    """A broker with an Erlang port mapper of its own, for that outlives the server which starts it."""
    port, mapper, dist = _free_port(), _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="forkproof-") as folder:
        environment = {
            "PATH": os.environ["PATH"], "HOME": folder, "ERL_EPMD_PORT": str(mapper), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(port), "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_NODENAME": f"forkproof{port}@localhost", "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder, "RABBITMQ_PID_FILE": f"{folder}/pid", "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
        }  # fmt: skip
        with (
            _running(["epmd", "-address", "127.0.0.1", "-port", str(mapper)], mapper, env=environment),
            _running(["/usr/lib/rabbitmq/bin/rabbitmq-server"], port, env=environment) as address,
        ):
            yield address


@contextlib.contextmanager
def mongodb():
    from forkproof.lab.server import mongodb

    with mongodb() as uri:
        yield uri.partition("//")[2].rstrip("/").replace("localhost", "127.0.0.1")


@contextlib.contextmanager
def web():
    """Answers GET /WORD with WORD, over connections that are kept."""
    port = _free_port()
    with _running([sys.executable, __file__, str(port)], port) as address:
        yield address


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        body = self.path[1:].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


SERVERS = {
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis,
    "memcached": memcached,
    "mongodb": mongodb,
    "rabbitmq": rabbitmq,
    "http": web,
}


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Echo).serve_forever()
