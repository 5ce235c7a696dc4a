"""PyMySQL: one connection, from before the fork. argv: HOST:PORT of a MariaDB or MySQL."""

import pymysql
from both import HOST, PORT, both


def connect():
    global connection
    connection = pymysql.connect(host=HOST, port=int(PORT), user="root", autocommit=True)


def ask(word):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [word])
        return cursor.fetchone()[0]


connect()
both(ask, in_child=connect)
