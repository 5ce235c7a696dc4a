"""psycopg: one connection, from before the fork. argv: HOST:PORT of a PostgreSQL."""

import psycopg
from both import HOST, PORT, both


def connect():
    global connection
    connection = psycopg.connect(f"host={HOST} port={PORT} user=postgres dbname=postgres", autocommit=True)


def ask(word):
    return connection.execute("SELECT %s::text", [word]).fetchone()[0]


connect()
both(ask, in_child=connect)  # which drops the inherited one
