"""Addresses that commands are given."""

from contextlib import suppress
from urllib.parse import urlsplit

from sluice.cli.errors import CommandError, ExitCode


def read_admin_address(url: str, *, port: int) -> str:
    """Return host and port of an admin port's URL.

    Args:
        url: What the command was given.
        port: For an example, if it is none.

    Raises:
        CommandError: It is none.
    """
    with suppress(ValueError):  # a bracket that does not close, a port that is no number
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return parts.netloc
    raise CommandError(
        f"{url} is no address of an admin port; give one such as http://127.0.0.1:{port}.",
        ExitCode.USAGE,
    )
