"""The certificate that clients see, from a mounted Secret; a new one serves the next handshake.

Connections that stand keep what they were made with. Every pair gets a context of its own, which a
handshake is given when it begins: no handshake can see half of a change.
"""

import ssl
from pathlib import Path

import structlog

from sluice_gateway.mounted import MountedSecret, MountError, find_content

_CERTIFICATE = "tls.crt"
_KEY = "tls.key"


class Certificate:
    """The pair that is used now.

    Attributes:
        secret: Where it comes from; it has to be started, and to run.
    """

    def __init__(
        self, directory: Path, *, period: float, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._current: ssl.SSLContext | None = None
        self._listening: ssl.SSLContext | None = None
        self.secret = MountedSecret(
            directory, load_pair, self.take, what="TLS certificate", period=period, log=log
        )

    @property
    def context(self) -> ssl.SSLContext:
        """The listener's context: it hands every handshake the present one."""
        if self._listening is None:
            raise RuntimeError("the secret has not been started")
        return self._listening

    def take(self, pair: ssl.SSLContext) -> None:
        """Use this pair for new connections from now on."""
        self._current = pair
        if self._listening is None:
            self._listening = pair
            # Called in every handshake, whether or not the client names a host.
            pair.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _own: ssl.SSLContext
    ) -> None:
        if self._current is not None:
            connection.context = self._current


def load_pair(directory: Path) -> ssl.SSLContext:
    """Return a server's context with the certificate and key of a mounted Secret.

    Raises:
        MountError: If a file is missing or wrong, or the key is not the certificate's.
    """
    content = find_content(directory)
    for name in (_CERTIFICATE, _KEY):
        try:
            (content / name).read_bytes()
        except OSError as error:
            raise MountError(
                f"cannot read {directory / name} ({error.strerror}); "
                f"put certificate chain and key there as {_CERTIFICATE} and {_KEY}"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without an answer to the question for a password, OpenSSL asks at the terminal.
        context.load_cert_chain(content / _CERTIFICATE, content / _KEY, password=lambda: "")
    except (OSError, ValueError) as error:
        raise MountError(_explain(directory, error)) from error
    return context


def _explain(directory: Path, error: OSError | ValueError) -> str:
    reason = getattr(error, "reason", None)
    pair = f"{directory / _CERTIFICATE} and {directory / _KEY}"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{pair} do not belong together; put the key of this certificate there"
    why = reason or type(error).__name__
    return f"{pair} are no pair in PEM form without a password ({why})"
