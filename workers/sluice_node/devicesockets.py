"""The node's side of device calls: a Unix socket a device, which tells its state to who opens it.

The present state first, then a line for every change, in the form of `sluice_accel.faults`. A
process may tell what it does with the device, in lines of `sluice_accel.usage`; what counts is the
last one, as long as it has the device open.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from sluice_accel.faults import DeviceState, encode_state
from sluice_accel.usage import DeviceUse, decode_use
from sluice_node.devices import DeviceKey

_LOG = logging.getLogger(__name__)
_PATH_BYTES = 107
"""What fits into a sockaddr_un of Linux, beside the zero at its end."""
_UNREAD_BYTES = 64 * 1024


class DeviceSockets:
    """The sockets of all devices of a node, in one directory."""

    def __init__(self, directory: Path, show: Callable[[DeviceKey], DeviceState]) -> None:
        """Take the directory and what gives the state of a device to who opens it now."""
        self._directory = directory
        self._show = show
        self._servers: list[asyncio.Server] = []
        self._open: dict[DeviceKey, dict[asyncio.StreamWriter, DeviceUse]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def find(self, device: DeviceKey) -> Path:
        """Return the path of a device's socket."""
        resource, number = device
        return self._directory / f"{resource.replace('/', '_')}-{number}.sock"

    async def start(self, devices: Iterable[DeviceKey]) -> None:
        """Listen, in place of an agent that was killed before.

        Raises:
            OSError: The directory cannot be used, or its path is too long.
        """
        for device in devices:
            path = self.find(device)
            if len(bytes(path)) > _PATH_BYTES:
                raise OSError(
                    f"the socket of {device[0]} {device[1]} cannot be at {path}: the path may not "
                    f"exceed {_PATH_BYTES} bytes. Name a shorter deviceDir in the node's "
                    "configuration"
                )
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open[device] = {}
            # It removes the socket of an earlier agent by itself.
            self._servers.append(
                await asyncio.start_unix_server(partial(self._serve, device), path)
            )

    async def stop(self) -> None:
        """Close the sockets and all connections, and remove the sockets."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for device in self._open:
            self.find(device).unlink(missing_ok=True)

    def sum_use(self, device: DeviceKey) -> DeviceUse:
        """Return what all processes that have a device open do with it together."""
        uses = self._open.get(device, {}).values()
        return DeviceUse(
            min(1.0, sum(use.busy for use in uses)), min(1.0, sum(use.memory for use in uses))
        )

    def tell(self, state: DeviceState) -> None:
        """Send a device's state to all that have it open."""
        line = encode_state(state)
        for writer in tuple(self._open.get((state.resource, state.number), ())):
            if writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
                _LOG.warning(
                    "a process that reads nothing from %s %d is cut off",
                    *(state.resource, state.number),
                )
                writer.transport.abort()
            else:
                writer.write(line)

    async def _serve(
        self, device: DeviceKey, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        writer.write(encode_state(self._show(device)))
        self._open[device][writer] = DeviceUse()
        try:
            while line := await reader.readline():
                self._open[device][writer] = decode_use(line)
        except (OSError, ValueError) as error:
            # Its end without closing is the same to us as one with; what it means by another line
            # nobody knows. ValueError: a line without end, or one that is no usage.
            if isinstance(error, ValueError):
                _LOG.warning("a process that has %s %d open sent %s", *device, error)
        finally:
            self._open[device].pop(writer, None)
            writer.close()
