"""A look into a running cluster's API with the administrator's certificate, for commands.

Only lists: whoever does more uses the kubeconfig and a Kubernetes client.
"""

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

from sluice.devcluster.client import call_supervisor
from sluice.devcluster.credentials import create_client_context
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import ClusterError

_TIMEOUT_SECONDS = 10.0


def list_objects(
    state: StateDirectory, path: str, *, label_selector: str = ""
) -> list[dict[str, Any]]:
    """Return the items of a list such as `/api/v1/nodes`.

    Raises:
        ClusterNotRunningError: the cluster is gone.
        ClusterError: the API server does not answer, or refuses.
    """
    server = urlsplit(call_supervisor(state, "GET", "/status")["server"])
    context = create_client_context(
        authority=state.pki / "ca.crt",
        certificate=state.pki / "admin.crt",
        key=state.pki / "admin.key",
    )
    connection = http.client.HTTPSConnection(
        server.netloc, context=context, timeout=_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", f"{path}?{urlencode({'labelSelector': label_selector})}")
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ClusterError(
            f"The API server of the cluster '{state.name}' does not answer ({error}). Its log: "
            f"{state.log_of('kube-apiserver')}."
        ) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ClusterError(f"The API server refused {path}: {body.get('message', body)}.")
    items: list[dict[str, Any]] = body["items"]
    return items
