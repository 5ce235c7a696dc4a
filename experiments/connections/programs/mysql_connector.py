"""MySQL Connector/Python: one connection, from before the fork. argv: HOST:PORT of a MariaDB or MySQL."""

import mysql.connector
from both import HOST, PORT, both


def connect():
    global connection
    connection = mysql.connector.connect(
        host=HOST, port=int(PORT), user="root", autocommit=True, use_pure=True, ssl_disabled=True
    )


def ask(word):
    cursor = connection.cursor()
    cursor.execute("SELECT %s", [word])
    return cursor.fetchone()[0]


connect()
inherited = connection  # kept: one that is dropped says goodbye to the server, and ends the parent's session
both(ask, in_child=connect)
