import encodings.idna
import os
import socket
import threading


def lookup():
    socket.getaddrinfo("localhost", 80)


t = threading.Thread(target=lookup)
t.start()
if os.fork():
    os.wait()
else:
    socket.getaddrinfo("localhost", 80)
