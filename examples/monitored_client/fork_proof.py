"""The same client, which now lives through a fork: `diff hang_prone.py fork_proof.py` is what it took."""

import socket
import time

from forkproof import kit


class Client:
    def __init__(self, address: tuple[str, int]) -> None:
        self.round_trip = 0.0
        self._address = address
        self._lock = kit.Lock()
        self._connection = kit.PerProcess(self._connect)
        self._monitor = kit.BackgroundThread(self._measure, every=0.01, name="monitor")

    def ask(self, line: str) -> str:
        self._monitor.start()
        with self._lock:
            connection = self._connection.get()
            connection.sendall(f"{line}\n".encode())
            return connection.makefile().readline().rstrip("\n")

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address)

    def _measure(self) -> None:
        began = time.monotonic()
        self.ask("ping")
        self.round_trip = time.monotonic() - began
