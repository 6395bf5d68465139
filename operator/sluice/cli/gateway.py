"""`sluice gateway`: says where a cluster's gateway listens, and makes keys for it."""

import hashlib
import json
import re
import secrets
from typing import Any

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.output import name_option, output_option, print_result
from sluice.model.gatewaypods import find_scheme

NAMESPACE = "sluice-system"
SELECTOR = "app.kubernetes.io/name=sluice-gateway"
_PORT = 8080
_COUNT = click.IntRange(min=1, max=10**12)
"""What a gateway takes for a limit."""
_POOL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@click.group()
def gateway() -> None:
    """Find the gateway of a cluster, make API keys for it."""


@gateway.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.argument("key_name", metavar="NAME")
@click.option("--concurrency", type=_COUNT, metavar="N", help="Requests at a time, a gateway.")
@click.option("--requests-per-minute", type=_COUNT, metavar="N", help="Requests a minute.")
@click.option("--tokens-per-minute", type=_COUNT, metavar="N", help="Prompt and output together.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="May use it; repeatable.")
@click.option(
    "--pool", "pools", multiple=True, metavar="NAMESPACE/NAME", help="May use it; repeatable."
)
@output_option
def create(*, key_name: str, output: str, **limits: Any) -> None:
    """Make an API key called NAME: print it, this once, and its entry in the Secret.

    The entry holds the key's hash and its limits. Put it into the Secret sluice-gateway-keys in
    sluice-system: gateways take it within a minute or so, when the kubelet has it.
    """
    if not _KEY_NAME.fullmatch(key_name):
        raise CommandError(
            f"The key's name {key_name[:60]!r} cannot be a Secret's entry: use up to 63 letters, "
            "digits, '-', '_' and '.', and a letter or digit first.",
            ExitCode.USAGE,
        )
    for pool in limits["pools"]:
        if not _POOL.fullmatch(pool):
            raise CommandError(
                f"--pool {pool[:80]!r} names no pool; write NAMESPACE/NAME, as default/chat.",
                ExitCode.USAGE,
            )
    if "" in limits["models"]:
        raise CommandError(
            "--model is empty; name a model, or leave it out for all.", ExitCode.USAGE
        )
    token = f"sk-{secrets.token_urlsafe(32)}"
    entry = render_entry(token, limits)
    patch = json.dumps({"stringData": {key_name: entry}})
    text = (
        f"key:   {token}\nentry: {entry}\n\n"
        "Once:  kubectl -n sluice-system create secret generic sluice-gateway-keys\n"
        f"Then:  kubectl -n sluice-system patch secret sluice-gateway-keys -p '{patch}'"
    )
    print_result({"name": key_name, "key": token, "entry": entry}, text, output=output)


def render_entry(token: str, limits: dict[str, Any]) -> str:
    """Return a Secret's entry for a key: its hash, and the limits that are set."""
    named = {
        "concurrency": limits["concurrency"],
        "requestsPerMinute": limits["requests_per_minute"],
        "tokensPerMinute": limits["tokens_per_minute"],
        "models": list(limits["models"]),
        "pools": list(limits["pools"]),
    }
    told = {field: value for field, value in named.items() if value}
    digest = f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    return f"{digest} {json.dumps(told)}" if told else digest


@gateway.command()
@name_option
@output_option
def url(*, name: str, output: str) -> None:
    """Print the address of a gateway that is ready."""
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.kubernetes_api import list_objects  # noqa: PLC0415

    found = find_cluster(name)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    address = choose_address(list_objects(found.state, path, label_selector=SELECTOR))
    print_result({"url": address}, address, output=output)


def choose_address(pods: list[dict[str, Any]]) -> str:
    """Return the URL of the first Ready gateway pod, by name.

    Raises:
        CommandError: there is none; the message says how far the pods are.
    """
    if not pods:
        raise CommandError(
            f"No gateway is installed: the namespace {NAMESPACE} has no pod with the label "
            f"{SELECTOR}. Install Sluice with 'sluice cluster kubectl -- apply --server-side -k "
            "manifests/overlays/embedded'.",
            ExitCode.NOT_READY,
        )
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
    for pod in ordered:
        if is_ready(pod):
            return f"{find_scheme(pod)}://{pod['status']['podIP']}:{_PORT}"
    states = ", ".join(f"{pod['metadata']['name']} is {_describe(pod)}" for pod in ordered)
    raise CommandError(f"No gateway is ready yet: {states}.", ExitCode.NOT_READY)


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether a gateway's pod is Ready, not on its way out, and has an address."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"] and "podIP" in pod["status"]


def _describe(pod: dict[str, Any]) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "terminating"
    phase = str(pod.get("status", {}).get("phase", "Pending"))
    return "running but not ready" if phase == "Running" else phase.lower()
