"""Commands that speak to any cluster's API server: which one, and what to say when it fails."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluice.kube.client import KubeClient

kubeconfig_option = click.option(
    "--kubeconfig", help="Any cluster; default: $KUBECONFIG, else the embedded cluster."
)


def find_kubeconfig(given: str | None, name: str) -> str:
    """Return the kubeconfig to use: the given one, $KUBECONFIG, or the embedded cluster's.

    Raises:
        CommandError: the file is not there, or the embedded cluster is not.
    """
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    chosen = given or os.environ.get("KUBECONFIG")
    if chosen and not any(Path(path).exists() for path in chosen.split(os.pathsep)):
        source = "--kubeconfig" if given else "KUBECONFIG"
        raise CommandError(f"{source} names {chosen}, and there is no such file.", ExitCode.USAGE)
    return chosen or str(find_cluster(name).kubeconfig)


def is_embedded(kubeconfig: str, name: str) -> bool:
    """Tell whether a kubeconfig is that of the embedded cluster, whose pods can be reached."""
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.errors import ClusterError  # noqa: PLC0415

    try:
        return kubeconfig == str(find_cluster(name).kubeconfig)
    except ClusterError:
        return False


async def call_api(
    kubeconfig: str,
    request: "Callable[[KubeClient], Awaitable[dict[str, Any]]]",
    *,
    doing: str,
    missing: str,
) -> dict[str, Any]:
    """Send one request, and return its answer.

    Args:
        kubeconfig: path of the file.
        request: what to ask of the client.
        doing: what could not be done when it fails, as in "read the pool".
        missing: the sentence for an object that is not there.

    Raises:
        CommandError: it failed.
    """
    from kubernetes.aio.config import ConfigException  # noqa: PLC0415

    from sluice.kube.client import KubeClient  # noqa: PLC0415
    from sluice.kube.errors import KubeError, NotFoundError  # noqa: PLC0415

    client = KubeClient(kubeconfig)
    try:
        return await request(client)
    except NotFoundError as error:
        raise CommandError(missing, ExitCode.USAGE) from error
    except (KubeError, ConfigException, OSError) as error:
        raise CommandError(f"Cannot {doing} with {kubeconfig}: {error}") from error
    finally:
        await client.close()
