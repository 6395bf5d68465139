"""The certificate that clients see, from a mounted Secret; a new one serves the next handshake.

Connections that stand keep what they were made with. Every pair gets a context of its own, which a
handshake is given when it begins: no handshake can see half of a change.
"""

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge

from sluice_gateway.mounted import MountedSecret, MountError, find_content

_CERTIFICATE = "tls.crt"
_KEY = "tls.key"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, and when it ends in seconds since the epoch."""

    context: ssl.SSLContext
    ends_at: float


class Certificate:
    """The pair that is used now.

    Attributes:
        secret: Where it comes from; it has to be started, and to run.
    """

    def __init__(
        self,
        directory: Path,
        registry: CollectorRegistry,
        *,
        period: float,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._log = log
        self._end = Gauge(
            "sluice_gateway_tls_certificate_end_seconds",
            "When the certificate that clients see ends, in seconds since the epoch.",
            registry=registry,
        )
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

    def take(self, pair: Pair) -> None:
        """Use this pair for new connections from now on."""
        self._current = pair.context
        self._end.set(pair.ends_at)
        if pair.ends_at < time.time():
            self._log.warning("TLS certificate has ended", ends_at=pair.ends_at)
        if self._listening is None:
            self._listening = pair.context
            # Called in every handshake, whether or not the client names a host.
            pair.context.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _own: ssl.SSLContext
    ) -> None:
        if self._current is not None:
            connection.context = self._current


def load_pair(directory: Path) -> Pair:
    """Return certificate and key of a mounted Secret, in a server's context.

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
        own = x509.load_pem_x509_certificate((content / _CERTIFICATE).read_bytes())
    except (OSError, ValueError) as error:
        raise MountError(_explain(directory, error)) from error
    return Pair(context, own.not_valid_after_utc.timestamp())


def _explain(directory: Path, error: OSError | ValueError) -> str:
    reason = getattr(error, "reason", None)
    pair = f"{directory / _CERTIFICATE} and {directory / _KEY}"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{pair} do not belong together; put the key of this certificate there"
    why = reason or type(error).__name__
    return f"{pair} are no pair in PEM form without a password ({why})"
