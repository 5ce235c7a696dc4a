"""Django: a query before the fork. argv: HOST:PORT of a PostgreSQL."""

import django
from both import HOST, PORT, both
from django.conf import settings
from django.db import connection, connections

database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "postgres",
    "USER": "postgres",
    "HOST": HOST,
    "PORT": PORT,
}
settings.configure(DATABASES={"default": database})
django.setup()


def ask(word):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [word])
        return cursor.fetchone()[0]


both(ask, before_fork=connections.close_all)
