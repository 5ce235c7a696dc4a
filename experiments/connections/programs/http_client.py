"""http.client: a connection from before the fork. argv: HOST:PORT of an HTTP server that keeps connections."""

import http.client

from both import ADDRESS, both

connection = http.client.HTTPConnection(ADDRESS)


def ask(word):
    connection.request("GET", f"/{word}")
    return connection.getresponse().read().decode()


both(ask, in_child=connection.close)  # it connects anew when it is used
