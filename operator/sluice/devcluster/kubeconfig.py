"""Renders kubeconfig files with everything embedded, so that a copy of the file is enough."""

import base64
import json
from pathlib import Path

from sluice.devcluster.certificates import KeyPair


def render_kubeconfig(
    *, cluster: str, user: str, server: str, authority: Path, client: KeyPair
) -> str:
    """Return a kubeconfig (JSON, which is YAML) for one cluster and one user."""
    context = f"sluice-{cluster}"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": context,
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _encode(authority),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _encode(client.certificate),
                        "client-key-data": _encode(client.key),
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
            "current-context": context,
        },
        indent=2,
    )


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
