"""psycopg2: one connection, from before the fork. argv: HOST:PORT of a PostgreSQL."""

import psycopg2
from both import HOST, PORT, both


def connect():
    global connection
    connection = psycopg2.connect(host=HOST, port=PORT, user="postgres", dbname="postgres")
    connection.autocommit = True


def ask(word):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [word])
        return cursor.fetchone()[0]


connect()
both(ask, in_child=connect)  # which drops the inherited one
