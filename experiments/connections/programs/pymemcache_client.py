"""pymemcache: a client that has been used before the fork. argv: HOST:PORT of a memcached."""

from both import HOST, PORT, both
from pymemcache.client.base import Client


def connect():
    global client
    client = Client((HOST, int(PORT)))


def ask(word):
    key = word.rstrip("0123456789")
    client.set(key, word, noreply=False)
    return client.get(key).decode()


connect()
both(ask, in_child=connect)
