"""PyMongo: an exhaust cursor, which keeps its connection, from before the fork. argv: HOST:PORT of a MongoDB.

Both processes take the rest of the documents, so the word is the next document's number.
"""

import pymongo
from both import ADDRESS, both

collection = pymongo.MongoClient(f"mongodb://{ADDRESS}/").test.numbers
collection.drop()
collection.insert_many([{"_id": number} for number in range(1000)])


def begin():
    global cursor, expected
    cursor = collection.find(cursor_type=pymongo.CursorType.EXHAUST, batch_size=2).sort("_id")
    expected = iter(range(1000))


def ask(word):
    number, found = next(expected), next(cursor)["_id"]
    return word if found == number else f"document {found} instead of {number}"


begin()
both(ask, in_child=begin)
