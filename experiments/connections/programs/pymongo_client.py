"""PyMongo: an ordinary client, used before the fork; its pool sees the fork. argv: HOST:PORT of a MongoDB."""

import warnings

import pymongo
from both import ADDRESS, both

warnings.simplefilter("ignore")
collection = pymongo.MongoClient(f"mongodb://{ADDRESS}/").test.words


def ask(word):
    collection.replace_one({"_id": word}, {"_id": word}, upsert=True)
    return collection.find_one({"_id": word})["_id"]


both(ask)
