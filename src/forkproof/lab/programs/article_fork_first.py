import os
import socket
import threading


def lookup():
    socket.getaddrinfo("localhost", 80)


pid = os.fork()
t = threading.Thread(target=lookup)
t.start()
if pid:
    os.wait()
else:
    socket.getaddrinfo("localhost", 80)
