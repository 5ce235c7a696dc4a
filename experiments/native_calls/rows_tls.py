"""OpenSSL: read-write locks of the process, and what of a TLS connection is locked."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from typing import Any

from lab import KEEP, Forks, KeepsGil, row

SHIM: dict[str, Any] = dict(shim="libcrypto", delay=1_000)


def _kept(tls: ssl.SSLSocket) -> ssl.SSLSocket:
    KEEP.append(tls)
    return tls


def _files(keep: list[str] = []) -> tuple[str, str]:  # noqa: B006  made once
    """A certificate and its key for localhost, and a context file to load them from."""
    if not keep:
        folder = tempfile.mkdtemp(dir=os.environ.get("SCRATCH"))
        keep += [f"{folder}/cert.pem", f"{folder}/key.pem"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", keep[1], "-out", keep[0], "-days", "2",
             "-subj", "/CN=localhost"], check=True, capture_output=True,
        )  # fmt: skip
    return keep[0], keep[1]


def _bundle(keep: list[str] = []) -> str:  # noqa: B006
    """A file of certificates, as long as a real bundle."""
    if not keep:
        paths = ssl.get_default_verify_paths()
        for path in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt"):
            if path and os.path.exists(path):
                keep.append(path)
                break
        else:
            keep.append(_files()[0])
    return keep[0]


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _tls(name: str, hold: Any, child: Any, **options: Any) -> None:
    forks = options.pop("forks", 50)
    threads = options.pop("threads", 2)

    @row(name, **{**SHIM, **options})
    def _() -> Forks:
        return Forks(hold, child, threads=threads, forks=forks)


_tls(
    "ssl.create_default_context / child: the same",
    ssl.create_default_context,
    ssl.create_default_context,
    forks=60,
)
_tls("ssl.SSLContext / child: the same", _context, _context)
_tls(
    "ssl.create_default_context / child: hashlib.new",
    ssl.create_default_context,
    lambda: hashlib.new("sha512", b"x"),
)
_tls(
    "ssl.create_default_context / child: hashlib.sha256",
    ssl.create_default_context,
    lambda: hashlib.sha256(b"x"),
)
_tls("ssl.create_default_context / child: RAND_bytes", ssl.create_default_context, lambda: ssl.RAND_bytes(16))


@row("load_verify_locations / child: SSLContext", **SHIM)
def _() -> Forks:
    path = _bundle()
    context = _context()
    return Forks(lambda: context.load_verify_locations(path), _context, threads=2, forks=50)


@row("load_verify_locations / child: the same context", **SHIM)
def _() -> Forks:
    path = _bundle()
    context = _context()
    return Forks(
        lambda: context.load_verify_locations(path), lambda: context.load_verify_locations(path), threads=1
    )


@row("load_verify_locations / child: its own context", **SHIM)
def _() -> Forks:
    path = _bundle()
    context = _context()
    return Forks(
        lambda: context.load_verify_locations(path), lambda: _context().load_verify_locations(path), threads=1
    )


@row("set_default_verify_paths / child: its own context", **SHIM)
def _() -> Forks:
    context = _context()
    return Forks(
        context.set_default_verify_paths, lambda: _context().set_default_verify_paths(), threads=1, forks=50
    )


@row("load_cert_chain / child: its own context", **SHIM)
def _() -> Forks:
    cert, key = _files()
    context = _context()
    return Forks(
        lambda: context.load_cert_chain(cert, key), lambda: _context().load_cert_chain(cert, key), forks=50
    )


def _server(context: ssl.SSLContext, answer: bool = True) -> tuple[str, int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)
    # Another process, so that none of its threads is inside OpenSSL at our forks.
    if os.fork() == 0:
        signal.alarm(100)
        while True:
            plain, _ = listener.accept()
            try:
                tls = context.wrap_socket(plain, server_side=True)
            except OSError:
                continue

            def serve(tls: ssl.SSLSocket = tls) -> None:
                try:
                    while data := tls.recv(65536):
                        if answer:
                            tls.sendall(data)
                except OSError:
                    pass

            threading.Thread(target=serve, daemon=True).start()
    address: tuple[str, int] = listener.getsockname()
    listener.close()
    return address


def _client_context() -> ssl.SSLContext:
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _both(answer: bool = True) -> tuple[tuple[str, int], ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*_files())
    return _server(server, answer), _client_context()


@row("do_handshake / child: SSLContext", **SHIM)
def _() -> Forks:
    address, client = _both()

    def hold() -> None:
        with socket.create_connection(address) as plain, client.wrap_socket(plain):
            pass

    return Forks(hold, _context, threads=2, forks=50)


@row("do_handshake / child: a handshake", **SHIM)
def _() -> Forks:
    address, client = _both()

    def hold() -> None:
        with socket.create_connection(address) as plain, client.wrap_socket(plain):
            pass

    return Forks(hold, hold, threads=2, forks=60)


@row("do_handshake, peer silent / child: a handshake")
def _() -> Forks:
    address, client = _both()
    silent = socket.create_server(("127.0.0.1", 0))
    KEEP.append(silent)

    def hold() -> None:
        client.wrap_socket(socket.create_connection(silent.getsockname()))

    def child() -> None:
        with socket.create_connection(address) as plain, client.wrap_socket(plain) as tls:
            tls.sendall(b"x")
            tls.recv(1)

    return Forks(hold, child, blocks=True, forks=10)


def _exchange(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"x" * 20_000)
    got = 0
    while got < 20_000:
        got += len(tls.recv(65536))


@row("SSLSocket read and write / child: SSLContext", **SHIM)
def _() -> Forks:
    address, client = _both()
    tls = _kept(client.wrap_socket(socket.create_connection(address)))
    _exchange(tls)
    return Forks(lambda: _exchange(tls), ssl.create_default_context, forks=60)


@row("SSLSocket read and write / child: a handshake and I/O", **SHIM)
def _() -> Forks:
    address, client = _both()
    tls = _kept(client.wrap_socket(socket.create_connection(address)))
    _exchange(tls)

    def child() -> None:
        with socket.create_connection(address) as plain, client.wrap_socket(plain) as mine:
            _exchange(mine)

    return Forks(lambda: _exchange(tls), child, forks=50)


@row("SSLSocket.read waiting for data / child: its own")
def _() -> Forks:
    address, client = _both()
    tls = _kept(client.wrap_socket(socket.create_connection(address)))

    def child() -> None:
        ssl.create_default_context()
        with socket.create_connection(address) as plain, client.wrap_socket(plain) as mine:
            _exchange(mine)

    return Forks(lambda: tls.recv(10), child, blocks=True, forks=10)


@row("SSLSocket.read waiting for data / child: pending of it")
def _() -> Forks:
    address, client = _both(answer=False)
    tls = _kept(client.wrap_socket(socket.create_connection(address)))
    return Forks(lambda: tls.recv(10), lambda: tls.pending(), blocks=True, forks=5)


@row("SSLSocket.read waiting for data / child: closes it")
def _() -> Forks:
    address, client = _both(answer=False)
    tls = _kept(client.wrap_socket(socket.create_connection(address)))
    return Forks(lambda: tls.recv(10), lambda: tls.close(), blocks=True, forks=5)


@row("SSLSocket.read waiting for data / child: writes to it")
def _() -> Forks:
    address, client = _both(answer=False)
    tls = _kept(client.wrap_socket(socket.create_connection(address)))
    return Forks(lambda: tls.recv(10), lambda: tls.send(b"x"), blocks=True, forks=5)


@row("SSLSocket.read, context's loading / child: wrap_socket of the context")
def _() -> Forks:
    """From 3.13 on a context and a socket have a lock of their own in CPython."""
    address, client = _both()
    path = _bundle()

    def child() -> None:
        with socket.create_connection(address) as plain, client.wrap_socket(plain):
            pass

    return Forks(lambda: client.load_verify_locations(path), child, forks=40)


@row("hashlib.pbkdf2_hmac / child: the same", **SHIM)
def _() -> Forks:
    def call() -> None:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 20)

    return Forks(call, call, threads=2, forks=50)


@row("hashlib.pbkdf2_hmac / child: create_default_context", **SHIM)
def _() -> Forks:
    """Its locks are taken for reading, which hurts only a child that takes them for writing."""

    def call() -> None:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 20)

    return Forks(call, ssl.create_default_context, threads=2, forks=50)


@row("hashlib.scrypt and hmac.digest / child: create_default_context", **SHIM)
def _() -> Forks:
    import hmac

    def call() -> None:
        hashlib.scrypt(b"password", salt=b"salt", n=16, r=8, p=1)
        hmac.digest(b"key", b"message", "sha256")

    return Forks(call, ssl.create_default_context, threads=2, forks=50)


@row("hashlib.pbkdf2_hmac, long / child: the same")
def _() -> Forks:
    return Forks(lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 400_000),
                 lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 20), threads=2, forks=60)  # fmt: skip


@row("hashlib.scrypt / child: the same", **SHIM)
def _() -> Forks:
    def call() -> None:
        hashlib.scrypt(b"password", salt=b"salt", n=16, r=8, p=1)

    return Forks(call, call, threads=2, forks=50)


@row("hmac.digest / child: the same", **SHIM)
def _() -> Forks:
    import hmac

    def call() -> None:
        hmac.digest(b"key", b"message", "sha256")

    return Forks(call, call, threads=2, forks=50)


@row("hashlib.new / child: the same", **SHIM)
def _() -> Forks:
    def call() -> None:
        hashlib.new("sha384", b"x").hexdigest()

    return Forks(call, call, threads=2, forks=50)


@row("ssl.RAND_bytes")
def _() -> KeepsGil:
    return KeepsGil(lambda: ssl.RAND_bytes(100_000_000))
