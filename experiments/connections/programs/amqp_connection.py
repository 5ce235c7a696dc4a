"""py-amqp, on which Celery's kombu is: one connection, each process with a queue of its own. argv: HOST:PORT of a RabbitMQ."""

import amqp
from both import ADDRESS, both


def connect():
    global connection, channel
    connection = amqp.Connection(ADDRESS)
    connection.connect()
    channel = connection.channel()


def ask(word):
    queue = word.rstrip("0123456789")
    channel.basic_publish(amqp.Message(word), routing_key=queue)
    return channel.basic_get(queue, no_ack=True).body


connect()
for name in ("before", "parent", "child"):
    channel.queue_declare(name, auto_delete=False)
both(ask, in_child=connect)
