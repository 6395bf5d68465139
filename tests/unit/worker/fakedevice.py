"""A device's socket as the node's agent offers it, for tests: tells its state, and every change."""

import contextlib
import socket
import threading

from sluice_accel.faults import DeviceState, Fault, FaultKind, encode_state
from sluice_accel.usage import decode_use

RESOURCE = "example.com/device"


class FakeDevice:
    """Listens on a socket below `directory`; `tell` says another state to whoever listens."""

    def __init__(self, directory, number=0):
        self.number = number
        self.path = directory / f"device-{number}.sock"
        self._line = encode_state(DeviceState(RESOURCE, number))
        self._lock = threading.Lock()
        self._connections = []
        self.connected = threading.Semaphore(0)
        self.listen()

    def listen(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with self._lock:
                    connection.sendall(self._line)
                    self._connections.append(connection)
                self.connected.release()

    def hear(self):
        """Return the next use that a worker tells of."""
        with self._lock:
            connection = self._connections[-1]
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1)
        return decode_use(line)

    def tell(self, *kinds, **over):
        """Have these faults from now on; none heals the device."""
        faults = tuple(Fault(FaultKind(kind), **({"since": 1.0} | over)) for kind in kinds)
        self.say(encode_state(DeviceState(RESOURCE, self.number, faults)))

    def say(self, line):
        with self._lock:
            self._line = line
            for connection in self._connections:
                with contextlib.suppress(OSError):  # its worker may have ended meanwhile
                    connection.sendall(line)

    def close(self):
        """Be gone, as while the agent starts again."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
