"""SQLite: a mutex a connection, and several of the process."""

from __future__ import annotations

import sqlite3
import tempfile
from typing import Any

from lab import KEEP, Forks, row

SHIM: dict[str, Any] = dict(shim="libsqlite3", delay=3_000)
LONG = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) select sum(i) from n"


def _open(where: str | None = None) -> sqlite3.Connection:
    connection = sqlite3.connect(where or ":memory:", check_same_thread=False, timeout=60)
    connection.execute("create table if not exists t (a, b)")
    connection.commit()
    return connection


def _file() -> str:
    return tempfile.mktemp(suffix=".db")


def _write(connection: sqlite3.Connection) -> None:
    connection.execute("insert into t values (1, 'text')")
    connection.commit()
    connection.execute("select * from t").fetchone()
    connection.execute("delete from t")


@row("sqlite3 execute / child: the same connection", **SHIM)
def _() -> Forks:
    connection = _open()
    return Forks(lambda: _write(connection), lambda: connection.execute("select 1").fetchone())


@row("sqlite3 long query / child: the same connection")
def _() -> Forks:
    connection = _open()
    return Forks(
        lambda: connection.execute(LONG).fetchone(), lambda: connection.execute("select 1").fetchone()
    )


@row("sqlite3 long query / child: its own, opened before")
def _() -> Forks:
    connection, other = _open(), _open()
    return Forks(
        lambda: connection.execute(LONG).fetchone(), lambda: other.execute("select 1").fetchone(), forks=200
    )


@row("sqlite3 long query / child: connects anew")
def _() -> Forks:
    connection = _open()
    return Forks(lambda: connection.execute(LONG).fetchone(), lambda: _open(_file()), forks=100)


@row("sqlite3 execute / child: its own, opened before", **SHIM)
def _() -> Forks:
    connection, other = _open(), _open()
    return Forks(lambda: _write(connection), lambda: _write(other), threads=1, forks=300)


@row("sqlite3 execute on files / child: its own file", **SHIM)
def _() -> Forks:
    connection, other = _open(_file()), _open(_file())
    return Forks(lambda: _write(connection), lambda: _write(other), forks=200)


@row("sqlite3 execute / child: connects anew", **SHIM)
def _() -> Forks:
    connection = _open(_file())
    return Forks(lambda: _write(connection), lambda: _open(_file()), forks=200)


@row("sqlite3.connect and close / child: connects anew", **SHIM)
def _() -> Forks:
    name = _file()
    return Forks(lambda: _open(name).close(), lambda: _open(_file()).close(), threads=2, forks=200)


@row("sqlite3.connect, first in the process", **SHIM)
def _() -> Forks:
    return Forks(
        lambda: sqlite3.connect(":memory:"),
        lambda: sqlite3.connect(":memory:"),
        blocks=True,
        forks=1,
        settle=0.0,
    )


@row("sqlite3 waiting for a file's lock / child: its own")
def _() -> Forks:
    """Inside the busy handler SQLite sleeps with the connection's mutex; is any of the process's held too?"""
    name = _file()
    blocker, connection, other = _open(name), _open(name), _open()
    blocker.execute("begin exclusive")
    KEEP.append(blocker)

    def child() -> None:
        other.execute("select 1").fetchone()
        _open(_file()).close()

    return Forks(
        lambda: connection.execute("insert into t values (1, 2)"), child, blocks=True, forks=40, settle=0.3
    )


@row("sqlite3 waiting for a file's lock / child: closes it")
def _() -> Forks:
    name = _file()
    blocker, connection = _open(name), _open(name)
    blocker.execute("begin exclusive")
    KEEP.append(blocker)
    return Forks(lambda: connection.execute("insert into t values (1, 2)"), lambda: connection.close(),
                 blocks=True, forks=5, settle=0.3)  # fmt: skip


def _method(name: str, call: Any) -> None:
    @row(f"sqlite3 {name} / child: the same connection", **SHIM)
    def _() -> Forks | str:
        connection = _open(_file())
        connection.executemany("insert into t values (?, zeroblob(5000))", [(i,) for i in range(2000)])
        connection.commit()
        return Forks(lambda: call(connection), lambda: connection.execute("select 1").fetchone(), forks=100)


_method("commit", lambda c: (c.execute("insert into t values (1, 1)"), c.commit()))
_method("rollback", lambda c: (c.execute("insert into t values (1, 1)"), c.rollback()))
_method("fetchall", lambda c: c.execute("select * from t").fetchall())
_method("fetchone", lambda c: c.execute("select * from t").fetchone())
_method("executescript", lambda c: c.executescript("select * from t; select count(*) from t"))
_method("executemany", lambda c: c.executemany("insert into t values (?, 1)", [(i,) for i in range(100)]))
_method("backup", lambda c: c.backup(sqlite3.connect(":memory:")))
_method("serialize", lambda c: c.serialize())
_method("iterdump", lambda c: list(c.iterdump()))
_method("blob", lambda c: [c.blobopen("t", "b", 1).read(4000) for _ in range(20)])
_method("create_function", lambda c: c.create_function("f", 1, lambda x: x))
_method("interrupt and total_changes", lambda c: (c.interrupt(), c.total_changes, c.in_transaction))


@row("sqlite3 Python function called back / child: the same connection")
def _() -> Forks:
    connection = _open()
    connection.create_function("slow", 1, lambda x: sum(range(20_000)))
    return Forks(lambda: connection.execute(f"select slow(1), ({LONG})").fetchall(),
                 lambda: connection.execute("select 1").fetchone())  # fmt: skip
