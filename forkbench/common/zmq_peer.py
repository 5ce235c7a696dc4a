"""A ZeroMQ socket that answers, in a thread of the program's own."""

import zmq
from harness import thread

context = zmq.Context()
_answering = context.socket(zmq.REP)
_port = _answering.bind_to_random_port("tcp://127.0.0.1")


def _serve():
    while True:
        _answering.send(_answering.recv())


thread(_serve)


def asking(of):
    socket = of.socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{_port}")
    return socket


def ask(socket):
    socket.send(b"x")
    return socket.recv()
