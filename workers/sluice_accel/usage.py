"""What a process does with a device, as it travels to the node's agent: driver counters, in effect.

A worker sends a line of JSON over the socket of each device that it holds, about once a second. The
agent makes of it what telemetry of a real device would show: utilisation, power, heat, memory.
"""

import json
from dataclasses import asdict, dataclass


class UsageError(ValueError):
    """A line that tells no usage; the message shows it."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What one process does with one device.

    Attributes:
        busy: share of the time in which kernels ran, since the line before; 0 to 1.
        memory: share of the device's memory that the process has allocated; 0 to 1.
    """

    busy: float = 0.0
    memory: float = 0.0


def encode_use(use: DeviceUse) -> bytes:
    """Return one line of JSON, with its end."""
    return json.dumps(asdict(use), separators=(",", ":")).encode() + b"\n"


def decode_use(line: bytes) -> DeviceUse:
    """Read a line that `encode_use` wrote.

    Raises:
        UsageError: it is something else.
    """
    try:
        raw = json.loads(line)
        use = DeviceUse(float(raw["busy"]), float(raw["memory"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"no usage of a device: {line[:80]!r} ({error})") from error
    if not (0 <= use.busy <= 1 and 0 <= use.memory <= 1):
        raise UsageError(f"no usage of a device: {line[:80]!r} (shares must be from 0 to 1)")
    return use
