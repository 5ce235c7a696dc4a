"""A STOMP server of the program's own, which confirms and gives the receipts that it is asked for."""

import socket

import stomp
from harness import thread
from stomp.listener import WaitingListener

_server = socket.create_server(("127.0.0.1", 0))


def _serve(client):
    left = b""
    while data := client.recv(4096):
        *frames, left = (left + data).split(b"\0")
        for frame in frames:
            if frame.lstrip(b"\n").startswith((b"STOMP", b"CONNECT")):
                client.sendall(b"CONNECTED\nversion:1.1\n\n\0")
            for line in frame.split(b"\n"):
                if line.startswith(b"receipt:"):
                    client.sendall(b"RECEIPT\nreceipt-id:" + line[8:] + b"\n\n\0")


def _accept():
    while True:
        thread(_serve, _server.accept()[0])


thread(_accept)


def connected():
    connection = stomp.Connection([("127.0.0.1", _server.getsockname()[1])])
    connection.connect(wait=True)
    return connection


def ask(connection, receipt):
    listener = WaitingListener(receipt)
    connection.set_listener(receipt, listener)
    connection.send("/queue/a", "x", receipt=receipt)
    listener.wait_on_receipt()
