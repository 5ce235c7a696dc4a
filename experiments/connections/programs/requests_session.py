"""requests: a Session that has been used before the fork. argv: HOST:PORT of an HTTP server that keeps connections."""

import requests
from both import ADDRESS, both

session = requests.Session()
both(lambda word: session.get(f"http://{ADDRESS}/{word}").text, in_child=session.close, looks_first=True)
