"""How to reach the Kubernetes API: from $KUBECONFIG, or from the pod's service account.

Of a kubeconfig file, what a pod is given is read: server, CA, and a token, a token file or a client
certificate. The token file is read again for every request, because the kubelet renews it.
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class AccessError(Exception):
    """The Kubernetes API cannot be reached as configured; the message says what to do."""


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """Where the API server is, and how to prove who we are.

    Attributes:
        server: Base URL without a trailing slash.
        tls: For https.
        token: A fixed bearer token, if any.
        token_file: File with a bearer token that changes, if any.
    """

    server: str
    tls: ssl.SSLContext | None
    token: str = ""
    token_file: Path | None = None

    def read_headers(self) -> dict[str, str]:
        """Return the headers that authenticate one request.

        Raises:
            AccessError: If the token file cannot be read now.
        """
        token = self.token
        if self.token_file is not None:
            try:
                token = self.token_file.read_text().strip()
            except OSError as error:
                why = error.strerror or str(error)
                raise AccessError(f"cannot read the token file {self.token_file}: {why}") from error
        return {"Authorization": f"Bearer {token}"} if token else {}


def find_access(environ: Mapping[str, str], *, account: Path = _ACCOUNT) -> KubeAccess:
    """Return the access that the environment describes.

    Args:
        environ: `KUBECONFIG`, or `KUBERNETES_SERVICE_HOST` and `_PORT` in a pod.
        account: Directory with the pod's service account.

    Raises:
        AccessError: If neither is there, or what is there cannot be read.
    """
    paths = [path for path in environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    if paths:
        return load_kubeconfig(Path(paths[0]))
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if host:
        port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        host = f"[{host}]" if ":" in host else host
        tls = _load_tls({"certificate-authority": str(account / "ca.crt")}, {}, Path("/"))
        return KubeAccess(f"https://{host}:{port}", tls, token_file=account / "token")
    raise AccessError(
        "no Kubernetes API: set KUBECONFIG to a kubeconfig file, or run in a pod "
        "(KUBERNETES_SERVICE_HOST)"
    )


def load_kubeconfig(path: Path) -> KubeAccess:
    """Read the current context of a kubeconfig file.

    Raises:
        AccessError: If the file, or a file that it names, cannot be read or lacks something.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AccessError(f"cannot read the kubeconfig {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AccessError(f"the kubeconfig {path} is not YAML") from error
    if not isinstance(config, dict):
        raise AccessError(f"the kubeconfig {path} is empty, or not a mapping of fields")
    try:
        context = _find_named(config, "contexts", config["current-context"])["context"]
        cluster = _find_named(config, "clusters", context["cluster"])["cluster"]
        user = _find_named(config, "users", context["user"]).get("user") or {}
        server = str(cluster["server"]).rstrip("/")
    except (KeyError, TypeError, AttributeError) as error:
        raise AccessError(f"the kubeconfig {path} lacks {error} of its current context") from error
    known = {"token", "tokenFile", "client-certificate", "client-certificate-data"}
    if user and not known & user.keys():
        raise AccessError(
            f"the kubeconfig {path} asks for {', '.join(sorted(user))}; the gateway knows a token, "
            "a tokenFile or a client certificate"
        )
    token_file = user.get("tokenFile")
    return KubeAccess(
        server,
        _load_tls(cluster, user, path.parent) if server.startswith("https:") else None,
        token="" if token_file else str(user.get("token", "")),
        token_file=path.parent / token_file if token_file else None,
    )


def _find_named(config: Any, section: str, name: str) -> dict[str, Any]:
    """Return the entry of a kubeconfig's list that has this name."""
    for entry in config[section]:
        if entry["name"] == name:
            return dict(entry)
    raise KeyError(f"{section}[{name}]")


def _load_tls(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    """Build the TLS context from a kubeconfig's cluster and user."""
    try:
        authority = _read_material(cluster, "certificate-authority", base)
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        certificate = _read_material(user, "client-certificate", base)
        if certificate:
            # OpenSSL takes certificate chains from files only.
            with tempfile.NamedTemporaryFile() as both:
                both.write(certificate + b"\n" + _read_material(user, "client-key", base))
                both.flush()
                tls.load_cert_chain(both.name)
    except (OSError, ValueError, binascii.Error) as error:  # SSLError is an OSError
        raise AccessError(f"cannot use the API server's certificates: {error}") from error
    return tls


def _read_material(section: Mapping[str, Any], field: str, base: Path) -> bytes:
    """Return PEM data that stands in the file itself or in one that it names; empty if neither."""
    inline = section.get(f"{field}-data")
    if inline:
        return base64.b64decode(inline)
    named = section.get(field)
    return (base / named).read_bytes() if named else b""
