"""Reads the agent's kubeconfig: the server's address, its CA and a client certificate.

Only what a kubelet's kubeconfig holds is understood; anything else is refused with a sentence.
"""

import base64
import binascii
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice_node.config import ConfigError


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """Where the API server is (no trailing slash), and a TLS context with our certificate."""

    server: str
    tls: ssl.SSLContext


def load_access(path: Path) -> KubeAccess:
    """Read the current context of a kubeconfig file.

    Raises:
        ConfigError: It, or a file that it names, cannot be read, or lacks something.
    """
    try:
        config = yaml.safe_load(path.read_text())
        context = _find_named(config, "contexts", config["current-context"])["context"]
        cluster = _find_named(config, "clusters", context["cluster"])["cluster"]
        user = _find_named(config, "users", context["user"])["user"]
        server = str(cluster["server"]).rstrip("/")
        authority = _read_material(cluster, "certificate-authority", path.parent)
        certificate = _read_material(user, "client-certificate", path.parent)
        key = _read_material(user, "client-key", path.parent)
    except OSError as error:
        raise ConfigError(f"Cannot read {error.filename or path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, binascii.Error) as error:
        raise ConfigError(f"The kubeconfig {path} is damaged: {error}.") from error
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"The kubeconfig {path} lacks {error}; a node needs a server, its CA and a client "
            "certificate with key."
        ) from error
    if not server.startswith("https://"):
        raise ConfigError(f"The server {server} in {path} is not https; a node needs TLS.")
    try:
        return KubeAccess(server, _build_tls(authority, certificate, key))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"The certificates in {path} cannot be used: {error}.") from error


def _build_tls(authority: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
    tls = ssl.create_default_context(cadata=authority.decode())
    # OpenSSL takes certificate chains from files only; this one is ours alone and gone at once.
    with tempfile.NamedTemporaryFile() as both:
        both.write(certificate + b"\n" + key)
        both.flush()
        tls.load_cert_chain(both.name)
    return tls


def _find_named(config: Any, section: str, name: str) -> dict[str, Any]:
    for entry in config[section]:
        if entry["name"] == name:
            return dict(entry)
    raise KeyError(f"{section}[{name}]")


def _read_material(section: Mapping[str, Any], field: str, base: Path) -> bytes:
    inline = section.get(f"{field}-data")
    if inline:
        return base64.b64decode(inline)
    return (base / str(section[field])).read_bytes()
