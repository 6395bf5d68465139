"""`sluice cluster`: starts, lists, uses and stops embedded clusters."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.cli.errors import CommandError, ExitCode, find_exit_code
from sluice.cli.output import StepDisplay, name_option, output_option, print_result

if TYPE_CHECKING:
    from sluice.devcluster.cluster import Cluster
    from sluice.devcluster.speed import Emulation

_COUNT = click.IntRange(min=0)

_binaries_option = click.option(
    "--binaries",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory with kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, etcd.",
)


@click.group()
def cluster() -> None:
    """Start, use and stop embedded Kubernetes clusters.

    A cluster is a real control plane of local processes, without root and without containers. Its
    nodes are emulated: pods run as local processes.
    """


@cluster.command()
@name_option
@click.option("--maia", type=_COUNT, default=2, show_default=True, help="Nodes with 2 Maia 200.")
@click.option("--gpu", type=_COUNT, default=2, show_default=True, help="Nodes with 2 H100.")
@click.option("--system", type=_COUNT, default=1, show_default=True, help="Nodes without devices.")
@_binaries_option
@click.option("--audit-log", is_flag=True, help="Have the API server log every request.")
@output_option
def up(
    *,
    name: str,
    maia: int,
    gpu: int,
    system: int,
    binaries: Path | None,
    audit_log: bool,
    output: str,
) -> None:
    """Start a cluster and leave it running."""
    from sluice.devcluster.binaries.resolution import Sources, resolve_binaries  # noqa: PLC0415
    from sluice.devcluster.cluster import start_cluster  # noqa: PLC0415
    from sluice.devcluster.images import find_models  # noqa: PLC0415
    from sluice.devcluster.shape import ClusterShape  # noqa: PLC0415
    from sluice.devcluster.speed import SpeedProbe, find_emulation, list_numerics  # noqa: PLC0415

    shape = ClusterShape(maia=maia, gpu=gpu, system=system)
    running = _find_running(name)
    if running is not None:
        _report_running(running, shape.to_dict(), audit_log=audit_log, output=output)
        return
    begun = time.monotonic()
    with StepDisplay() as display:
        programs = resolve_binaries(Sources(user_directory=binaries), display)
        resolved = time.monotonic()
        with SpeedProbe(find_models(), list_numerics(shape)) as probe:
            started = start_cluster(
                name, shape=shape, binaries=programs, audit_log=audit_log, on_step=display.begin
            )
            seconds = time.monotonic() - resolved
            emulation = find_emulation(probe.finish(), shape)
    status = started.read_status()
    if emulation is not None:
        status["emulation"] = emulation.to_dict()
    started.detach()
    found = f" (programs: {resolved - begun:.1f} s)" if resolved - begun > 1 else ""
    print_result(
        status | {"startSeconds": round(seconds, 2)},
        f"Cluster '{name}' is ready after {seconds:.1f} s{found}: {shape}, Kubernetes "
        f"{programs.kubernetes_source}, etcd {programs.etcd_source}.\n"
        f"{_describe_speed(emulation)}\n"
        f"  sluice cluster kubectl{_name_flag(name)} -- get nodes\n"
        f"  export KUBECONFIG=$(sluice cluster kubeconfig{_name_flag(name)})\n"
        f"  sluice cluster down{_name_flag(name)}",
        output=output,
    )


def _describe_speed(emulation: "Emulation | None") -> str:
    if emulation is None:
        return "How fast this machine computes was not measured."
    return emulation.describe()


def _name_flag(name: str) -> str:
    return "" if name == "sluice" else f" --name {name}"


def _find_running(name: str) -> "Cluster | None":
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.errors import ClusterNotRunningError  # noqa: PLC0415

    try:
        return find_cluster(name)
    except ClusterNotRunningError:
        return None


def _report_running(
    running: "Cluster", shape: dict[str, int], *, audit_log: bool, output: str
) -> None:
    """Say that the cluster is there already, or that another one of that name is."""
    status = running.read_status()
    name = running.name
    if status["phase"] != "ready":
        raise CommandError(
            f"The cluster '{name}' is {status['phase']}{_describe_ended(status['components'])}. "
            f"'sluice cluster down{_name_flag(name)}' ends it.",
            ExitCode.CONFLICT,
        )
    if status["shape"] != shape or (audit_log and status["auditLog"] is None):
        has = ", ".join(f"{count} {kind}" for kind, count in status["shape"].items())
        log = "with" if status["auditLog"] else "without"
        raise CommandError(
            f"A cluster '{name}' is running with other nodes or settings ({has}; {log} audit log). "
            f"Stop it with 'sluice cluster down{_name_flag(name)}', or choose another --name.",
            ExitCode.CONFLICT,
        )
    print_result(
        status, f"Cluster '{name}' is running already, with the same nodes.", output=output
    )


def _describe_ended(components: list[dict[str, Any]]) -> str:
    ended = [
        f"{entry['name']} ended, see {entry['log']}" for entry in components if not entry["pid"]
    ]
    return f" ({'; '.join(ended)})" if ended else ""


@cluster.command()
@_binaries_option
@output_option
def programs(*, binaries: Path | None, output: str) -> None:
    """Find, download or build what `up` starts, and say where it is."""
    from sluice.devcluster.binaries.resolution import Sources, resolve_binaries  # noqa: PLC0415

    with StepDisplay() as display:
        found = resolve_binaries(Sources(user_directory=binaries), display)
    print_result(
        found.to_dict(),
        f"Kubernetes {found.kubernetes_source}: {found.kubectl.parent}\n"
        f"etcd {found.etcd_source}: {found.etcd}",
        output=output,
    )


@cluster.command()
@name_option
def kubeconfig(*, name: str) -> None:
    """Print the path of the administrator's kubeconfig."""
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    click.echo(find_cluster(name).kubeconfig)


@cluster.command(context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(*, name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl on a cluster: sluice cluster kubectl -- get pods."""
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    found = find_cluster(name)
    program = found.read_status()["binaries"]["kubectl"]
    environment = {**os.environ, "KUBECONFIG": str(found.kubeconfig)}
    try:
        os.execve(program, [program, *arguments], environment)  # noqa: S606  # its exit code is ours
    except OSError as error:
        raise CommandError(f"{program} cannot be run: {error.strerror}.") from error


@cluster.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All clusters of this user.")
def down(*, name: str, every: bool) -> None:
    """Stop a cluster and remove what it kept; fine if there is none."""
    from sluice.devcluster.cluster import list_clusters, stop_cluster  # noqa: PLC0415
    from sluice.devcluster.errors import ClusterError  # noqa: PLC0415

    names = [entry["name"] for entry in list_clusters()] if every else [name]
    stopped = 0
    faults: list[ClusterError] = []
    for each in names:
        try:
            if stop_cluster(each):
                stopped += 1
                click.echo(f"Cluster '{each}' is stopped and removed.")
        except ClusterError as error:
            faults.append(error)  # the others are to be stopped all the same
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise CommandError("\n".join(str(fault) for fault in faults), find_exit_code(faults[0]))
    if not stopped:
        click.echo("No cluster is there." if every else f"No cluster '{name}' is there.")


@cluster.command(name="list")
@output_option
def list_(*, output: str) -> None:
    """List the clusters of this user."""
    from sluice.devcluster.cluster import list_clusters  # noqa: PLC0415

    clusters = list_clusters()
    rows = [("NAME", "PHASE", "MAIA", "GPU", "SYSTEM", "NETWORK", "KUBECONFIG")]
    for entry in clusters:
        shape = entry.get("shape", {})
        counts = (str(shape.get(kind, "-")) for kind in ("maia", "gpu", "system"))
        network, path = entry.get("network", "-"), entry.get("kubeconfig", "-")
        rows.append((entry["name"], entry["phase"], *counts, network, path))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    text = "\n".join(line.rstrip() for line in lines)
    print_result(clusters, text if clusters else "No clusters.", output=output)
