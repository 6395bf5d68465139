"""`sluice explain POOL|NODE`: what stands now, and how it came to it, as a time line."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.kubeapi import call_api, find_kubeconfig, is_embedded, kubeconfig_option
from sluice.cli.output import name_option, output_option, print_result
from sluice.cli.recordings import fetch_lines, find_operators, parse_since, url_option

if TYPE_CHECKING:
    from sluice.decide.timeline import Entry
    from sluice.kube.client import Json, KubeClient
    from sluice.kube.paths import Resource

_FORWARD = (
    "Without the recorded passes: 'kubectl -n sluice-system port-forward deploy/sluice-operator"
    " 8081', then --url http://127.0.0.1:8081 adds them."
)


@click.command()
@click.argument("target", metavar="POOL|NODE")
@click.option("--namespace", "-n", default="default", show_default=True, help="Where the pool is.")
@click.option(
    "--since",
    metavar="DURATION",
    callback=parse_since,
    help="How far back, such as 2h, with what operators have on disk; default: all that status,"
    " Events and the last 200 passes tell.",
)
@kubeconfig_option
@url_option
@name_option
@output_option
def explain(
    *,
    target: str,
    namespace: str,
    since: str | None,
    kubeconfig: str | None,
    url: str | None,
    name: str,
    output: str,
) -> None:
    """Tell what a pool or a node went through, and why.

    The time line is made of the pool's status, of Events, and of the recorded passes where an
    operator can be reached: in the embedded cluster, or at --url.
    """
    from sluice.decide import timeline  # noqa: PLC0415

    path = find_kubeconfig(kubeconfig, name)
    embedded = is_embedded(path, name)
    found = asyncio.run(
        call_api(
            path,
            lambda client: _gather(client, namespace, target),
            doing=f"read what there is of {target}",
            missing=f"There is neither an InferencePool '{target}' in namespace '{namespace}' nor a"
            f" node '{target}'. 'kubectl get ipool -A' and 'kubectl get nodes' list them.",
        )
    )
    recorded, missing = _read_recording(url, name, since, embedded=embedded)
    start = time.time() - _seconds(since) if since is not None else 0.0
    events = timeline.trace_events(found["events"])
    if found["kind"] == "pool":
        head, entries = _tell_pool(namespace, target, found, recorded, events, start)
    else:
        head, entries = _tell_node(target, found, recorded, events, start)
    lines = [*head, "", "time line (UTC)" if entries else "nothing has happened"]
    lines += [f"  {line}" for line in timeline.describe_entries(entries)]
    lines += [f"  {sentence}" for sentence in missing]
    value = {
        found["kind"]: f"{namespace}/{target}" if found["kind"] == "pool" else target,
        "status": found["status"],
        "entries": [_as_json(entry) for entry in entries],
        "missing": missing,
    }
    print_result(value, "\n".join(lines), output=output)


def _seconds(since: str) -> float:
    from sluice.api.quantities import parse_duration  # noqa: PLC0415

    return parse_duration(since)


def _tell_pool(
    namespace: str,
    pool: str,
    found: "Json",
    recorded: "list[Entry]",
    events: "list[Entry]",
    start: float,
) -> "tuple[list[str], list[Entry]]":
    from sluice.cli.stories import describe_pool  # noqa: PLC0415
    from sluice.decide import timeline  # noqa: PLC0415
    from sluice.model.keys import PoolKey  # noqa: PLC0415

    key = PoolKey(namespace, pool)
    own = timeline.trace_status(key, found["status"])
    merged = timeline.merge_entries(recorded, events, own, since=start)
    return describe_pool(str(key), found["status"]), timeline.choose_pool(merged, key)


def _tell_node(
    node: str, found: "Json", recorded: "list[Entry]", events: "list[Entry]", start: float
) -> "tuple[list[str], list[Entry]]":
    from sluice.cli.stories import describe_node  # noqa: PLC0415
    from sluice.decide import timeline  # noqa: PLC0415

    entries = timeline.choose_node(timeline.merge_entries(recorded, events), node)
    head = describe_node(found["object"], found["pods"], time.time(), entries)
    return head, [entry for entry in entries if entry.at >= start]


async def _gather(client: "KubeClient", namespace: str, target: str) -> "Json":
    """Read a pool or, where there is none of that name, a node, with what belongs to it."""
    from sluice.kube.errors import NotFoundError  # noqa: PLC0415
    from sluice.kube.paths import EVENTS, NODES, PODS, POOLS  # noqa: PLC0415
    from sluice.model.names import POOL_KIND  # noqa: PLC0415

    try:
        pool = await client.get(POOLS, namespace, target)
    except NotFoundError:
        node = await client.get(NODES, "", target)
        fields = f"involvedObject.kind=Node,involvedObject.name={target}"
        return {
            "kind": "node",
            "object": node,
            "status": node.get("status", {}).get("conditions", []),
            "events": await _list(client, EVENTS, "", fields),
            "pods": await _list(client, PODS, "", f"spec.nodeName={target}"),
        }
    fields = f"involvedObject.kind={POOL_KIND},involvedObject.name={target}"
    return {
        "kind": "pool",
        "object": pool,
        "status": pool.get("status", {}),
        "events": await _list(client, EVENTS, namespace, fields),
    }


async def _list(
    client: "KubeClient", resource: "Resource", namespace: str, fields: str
) -> "list[Json]":
    answer = await client.request("GET", resource.path(namespace), params={"fieldSelector": fields})
    return [item for item in answer.get("items") or () if isinstance(item, dict)]


def _read_recording(
    url: str | None, name: str, since: str | None, *, embedded: bool
) -> "tuple[list[Entry], list[str]]":
    """Return what operators recorded, and a sentence for each that could not be asked."""
    from sluice.decide.timeline import trace_passes  # noqa: PLC0415
    from sluice.devcluster.errors import ClusterError  # noqa: PLC0415
    from sluice.model.recording import RecordingError, read_record  # noqa: PLC0415

    if url is None and not embedded:
        return [], [_FORWARD]
    records, missing = [], []
    try:
        for place in find_operators(url, name):
            try:
                records += [read_record(line, place) for line in fetch_lines(place, since)]
            except (CommandError, RecordingError) as error:
                # A wrong address is a mistake in the command; an operator that is away is a fact.
                if isinstance(error, CommandError) and error.code is ExitCode.USAGE:
                    raise
                missing.append(f"Without the recorded passes of {place}: {error}")
    except (CommandError, ClusterError) as error:
        if isinstance(error, CommandError) and error.code is ExitCode.USAGE:
            raise
        missing.append(f"Without the recorded passes: {error}")
    return trace_passes(records), missing


def _as_json(entry: "Entry") -> dict[str, Any]:
    from sluice.decide.timeline import format_moment  # noqa: PLC0415

    return {
        "at": entry.at,
        "time": format_moment(entry.at, exact=entry.exact),
        "subject": entry.subject,
        "what": entry.what,
        "detail": entry.detail,
        "warning": entry.warning,
        "node": entry.node,
        "pools": sorted(str(key) for key in entry.pools),
    }
