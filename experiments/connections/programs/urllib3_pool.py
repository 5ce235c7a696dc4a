"""urllib3: a PoolManager that has been used before the fork. argv: HOST:PORT of an HTTP server that keeps connections."""

import urllib3
from both import ADDRESS, both

pool = urllib3.PoolManager()


def ask(word):
    return pool.request("GET", f"http://{ADDRESS}/{word}", retries=False).data.decode()


both(ask, in_child=pool.clear, looks_first=True)
