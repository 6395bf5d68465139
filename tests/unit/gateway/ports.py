"""A port that stays ours while nobody listens on it."""

import socket


def hold_port(host):
    """Return a bound socket that never listens: others may listen beside it with reuse_port.

    Connections to it are refused, and the port is not handed to anybody else meanwhile.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, 0))
    return held
