"""pg8000: one connection, from before the fork. argv: HOST:PORT of a PostgreSQL."""

import pg8000.native
from both import HOST, PORT, both


def connect():
    global connection
    connection = pg8000.native.Connection("postgres", host=HOST, port=int(PORT), database="postgres")


def ask(word):
    return connection.run("SELECT CAST(:word AS text)", word=word)[0][0]


connect()
both(ask, in_child=connect)  # which drops the inherited one
