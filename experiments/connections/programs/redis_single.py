"""redis-py: a client with one connection, used before the fork. argv: HOST:PORT of a Redis."""

import sys

import redis
from both import HOST, PORT, both

client = redis.Redis(
    HOST, int(PORT), single_connection_client="remedy" not in sys.argv, decode_responses=True
)
both(client.echo)
