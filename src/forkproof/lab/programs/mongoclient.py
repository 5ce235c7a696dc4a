"""A MongoClient, a fork, and a ping in the child: mongoclient.py DESIGN, with MONGODB_URI in the environment.

    unblocked   the constructor returns at once, and its threads go on connecting (PyMongo 3 and later)
    blocking    the constructor's caller waits until they are done (as in PyMongo 2's MongoReplicaSetClient)
    lazy        nothing connects before the first operation (connect=False)
    fork-first  the client is made after the fork

Ends with the child's status: 0 if it had an answer.
"""

import os
import sys
import time

from pymongo import MongoClient
from pymongo.errors import PyMongoError


def make(design):
    began = time.monotonic()
    client = MongoClient(os.environ["MONGODB_URI"], connect=design != "lazy")
    print(f"MongoClient() returned after {time.monotonic() - began:.3f} s", flush=True)
    if design == "blocking":
        client.admin.command("ping")
    return client


def ping(client):
    began = time.monotonic()
    try:
        client.admin.command("ping")
    except PyMongoError as error:
        print(f"child: {type(error).__name__} after {time.monotonic() - began:.1f} s", flush=True)
        os._exit(1)
    print(f"child: pinged after {time.monotonic() - began:.1f} s", flush=True)
    os._exit(0)


design = sys.argv[1]
client = None if design == "fork-first" else make(design)
pid = os.fork()
if not pid:
    ping(client or make(design))
client = client or make(design)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
