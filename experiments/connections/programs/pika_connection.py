"""pika: a BlockingConnection from before the fork, each process with a queue of its own. argv: HOST:PORT of a RabbitMQ."""

import pika
from both import HOST, PORT, both


def connect():
    global connection, channel
    connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, int(PORT)))
    channel = connection.channel()


def ask(word):
    queue = word.rstrip("0123456789")
    channel.basic_publish("", queue, word.encode())
    return channel.basic_get(queue, auto_ack=True)[2].decode()


connect()
for name in ("before", "parent", "child"):
    channel.queue_declare(name)
both(ask, in_child=connect)
