"""`sluice route explain`: why a request went to the worker that it went to."""

import asyncio
import http.client
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from sluice.cli.addresses import read_admin_address
from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.gateway import NAMESPACE, SELECTOR, is_ready
from sluice.cli.kubeapi import call_api, find_kubeconfig, is_embedded, kubeconfig_option
from sluice.cli.output import name_option, output_option, print_result

if TYPE_CHECKING:
    from sluice.kube.client import Json, KubeClient

ADMIN_PORT = 8081
_PATIENCE = 5.0


@click.group()
def route() -> None:
    """Tell why a request went to the worker that it went to."""


@route.command()
@click.argument("request_id", metavar="REQUEST_ID")
@click.option(
    "--url",
    multiple=True,
    help="Admin port of a gateway, such as http://127.0.0.1:8081; may be given again. Default: all"
    " gateways of the cluster that are ready.",
)
@kubeconfig_option
@name_option
@output_option
def explain(
    *, request_id: str, url: tuple[str, ...], kubeconfig: str | None, name: str, output: str
) -> None:
    """Tell why a request went where it went: who was compared, what was predicted, what came of it.

    REQUEST_ID is what the answer's header x-request-id says. Gateways remember the last 1000
    requests that have ended, each its own.
    """
    if url:
        asked = list(url)
        found = [record for one in asked if (record := fetch_record(one, request_id)) is not None]
    else:
        path = find_kubeconfig(kubeconfig, name)
        asked, found = _ask_cluster(path, request_id, direct=is_embedded(path, name))
    if not found:
        raise CommandError(
            f"None of the gateways asked ({', '.join(asked)}) remembers the request '{request_id}'."
            " They keep the last 1000 that have ended, until they restart.",
            ExitCode.USAGE,
        )
    text = "\n\n".join("\n".join(describe_route(record)) for record in found)
    print_result(found if len(found) > 1 else found[0], text, output=output)


def _ask_cluster(
    kubeconfig: str, request_id: str, *, direct: bool
) -> tuple[list[str], "list[Json]"]:
    """Ask every ready gateway: at its address where that can be reached, else through the API.

    The API server passes nothing on to loopback addresses, as pods of the embedded cluster have.
    """

    async def ask(client: "KubeClient") -> "Json":
        from sluice.kube.paths import PODS  # noqa: PLC0415

        answer = await client.request(
            "GET", PODS.path(NAMESPACE), params={"labelSelector": SELECTOR}
        )
        ready = [pod for pod in answer.get("items") or () if is_ready(pod)]
        if direct:
            return {"ready": ready, "found": []}
        records = [await _ask_through_api(client, pod, request_id) for pod in ready]
        return {"ready": ready, "found": [record for record in records if record is not None]}

    answer = asyncio.run(
        call_api(
            kubeconfig,
            ask,
            doing="ask the gateways",
            missing=f"There is no namespace '{NAMESPACE}'.",
        )
    )
    ready = answer["ready"]
    if not ready:
        raise CommandError(
            f"No gateway is ready: namespace {NAMESPACE}, label {SELECTOR}.", ExitCode.NOT_READY
        )
    names = [str(pod["metadata"]["name"]) for pod in ready]
    if not direct:
        return names, answer["found"]
    urls = [f"http://{pod['status']['podIP']}:{ADMIN_PORT}" for pod in ready]
    return names, [record for url in urls if (record := fetch_record(url, request_id)) is not None]


async def _ask_through_api(
    client: "KubeClient", pod: "Json", request_id: str
) -> "dict[str, Any] | None":
    from sluice.kube.errors import NotFoundError  # noqa: PLC0415
    from sluice.kube.paths import PODS  # noqa: PLC0415

    place = PODS.path(NAMESPACE, f"{pod['metadata']['name']}:{ADMIN_PORT}", "proxy")
    try:
        return await client.request("GET", f"{place}/route/{quote(request_id, safe='')}")
    except NotFoundError:
        return None


def fetch_record(url: str, request_id: str) -> "dict[str, Any] | None":
    """Return what the gateway at an admin port remembers of a request; None if nothing.

    Raises:
        CommandError: It is no admin port, or does not answer.
    """
    place = read_admin_address(url, port=ADMIN_PORT)
    connection = http.client.HTTPConnection(place, timeout=_PATIENCE)
    try:
        connection.request("GET", f"/route/{quote(request_id, safe='')}")
        response = connection.getresponse()
        body = response.read()
        if response.status == http.client.NOT_FOUND and b"remember" in body:
            return None
        if response.status != http.client.OK:
            raise CommandError(
                f"{url} answers {response.status} to what a gateway's admin port knows."
            )
        record = json.loads(body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CommandError(f"The gateway at {url} does not answer: {error}.") from error
    finally:
        connection.close()
    if not isinstance(record, dict) or not isinstance(record.get("attempts"), list):
        raise CommandError(f"What {url} answers is no gateway's: it has no attempts of a request.")
    return record


def describe_route(record: dict[str, Any]) -> list[str]:
    """Return a request's story in lines, from what a gateway tells of it."""
    goal = record.get("objective") or {}
    asked = "its own deadline of" if goal.get("deadline") else "first token within"
    within = f"{asked} {goal.get('ttft', 0):g} s, {1000 * goal.get('tpot', 0):g} ms a token"
    lines = [
        f"request {record['requestId']} to {record['pool']}, at gateway {record['gateway']}",
        f"  class {record['requestClass']}: {within}",
        f"  shares: {_describe_shares(record.get('shares') or {})}",
    ]
    if record.get("waited"):
        lines.append(f"  waited {record['waited']:.3g} s for a worker")
    for number, attempt in enumerate(record["attempts"], start=1):
        lines += [f"  attempt {number}: {line}" for line in _describe_attempt(attempt)]
    met = {True: "met", False: "missed", None: "not judged"}[record.get("met")]
    lines.append(
        f"  ended {record['outcome']} ({record['status']}): first token"
        f" {_time(record.get('ttft'))}, {_token(record.get('tpot'))}; objective {met}"
    )
    return lines


def _describe_shares(shares: dict[str, float]) -> str:
    said = ", ".join(f"{name} {100 * share:.3g}%" for name, share in shares.items())
    return said or "none decided"


def _describe_attempt(attempt: dict[str, Any]) -> Iterable[str]:
    yield f"{attempt['pod']} ({attempt['acceleratorClass']}), {attempt['outcome']}"
    if attempt.get("goesOnAfter"):
        exact = attempt.get("exact")
        how = "not begun" if exact is None else "token by token" if exact else "approximately"
        yield f"  goes on with the stream after {attempt['goesOnAfter']}: {how}"
    yield f"  because {attempt['reason']}"
    if attempt.get("spilledFrom"):
        yield f"  spilled from {attempt['spilledFrom']}, beside the shares"
    predicted, real = attempt.get("predicted") or {}, attempt.get("real") or {}
    yield (
        f"  first token predicted {_time(predicted.get('ttft'))}, was {_time(real.get('ttft'))}; "
        f"predicted {_token(predicted.get('tpot'))}, was {_token(real.get('tpot'))}"
    )
    for look in attempt.get("candidates") or ():
        yield (
            f"  compared: {look['pod']} ({look['acceleratorClass']}), {look['inflight']} in flight:"
            f" first token {_time(look['ttft'])}, {_token(look['tpot'])}"
        )


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.3g} s"


def _token(seconds: float | None) -> str:
    return "unknown ms a token" if seconds is None else f"{1000 * seconds:.3g} ms a token"
