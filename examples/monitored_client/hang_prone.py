"""A small client of a line-by-line server, with a thread that measures the round trip: as one would write it at first."""

import socket
import threading
import time


class Client:
    def __init__(self, address: tuple[str, int]) -> None:
        self.round_trip = 0.0
        self._address = address
        self._lock = threading.Lock()
        self._connection = self._connect()
        threading.Thread(target=self._watch, name="monitor", daemon=True).start()

    def ask(self, line: str) -> str:
        with self._lock:
            self._connection.sendall(f"{line}\n".encode())
            return self._connection.makefile().readline().rstrip("\n")

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address)

    def _watch(self) -> None:
        while True:
            began = time.monotonic()
            self.ask("ping")
            self.round_trip = time.monotonic() - began
            time.sleep(0.01)
