"""httpx: a Client that has been used before the fork. argv: HOST:PORT of an HTTP server that keeps connections."""

import httpx
from both import ADDRESS, both


def make():
    global client
    client = httpx.Client()


make()
both(lambda word: client.get(f"http://{ADDRESS}/{word}").text, in_child=make, looks_first=True)
