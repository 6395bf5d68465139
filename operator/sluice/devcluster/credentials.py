"""TLS contexts of those who call a cluster's API server with a client certificate."""

import ssl
from pathlib import Path


def create_client_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context that trusts the cluster's authority and shows a client certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(certificate, key)
    return context
