"""`sluice recording` and `sluice replay`: fetch what the operator saw, and go over it again."""

import http.client
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.output import name_option, output_option, print_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluice.decide.replay import Difference
    from sluice.model.recording import PassRecord

_OPERATORS = "app.kubernetes.io/name=sluice-operator"
_PODS = "/api/v1/namespaces/sluice-system/pods"
_PORT = 8081
_PATIENCE = 30.0
_SHOWN = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--url",
    help="Admin port of an operator on any cluster, such as http://127.0.0.1:8081 after 'kubectl "
    "port-forward'; default: the operators of the embedded cluster.",
)
@name_option
@output_option
def recording(*, file: Path, url: str | None, name: str, output: str) -> None:
    """Save the last 200 passes of the operator.

    A pass is all that the planner saw and remembered, and what it planned.
    """
    lines = [line for place in _find_operators(url, name) for line in _fetch(place)]
    if not lines:
        raise CommandError("No operator has made a pass yet.", ExitCode.NOT_READY)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_bytes(b"".join(lines))
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CommandError(f"Cannot write {file}: {error.strerror}.", ExitCode.USAGE) from error
    text = f"{len(lines)} passes stand in {file}. Go over them with 'sluice replay {file}'."
    print_result({"file": str(file), "passes": len(lines)}, text, output=output)


def _find_operators(url: str | None, name: str) -> list[str]:
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.kubernetes_api import list_objects  # noqa: PLC0415

    if url is not None:
        return [url]
    pods = list_objects(find_cluster(name).state, _PODS, label_selector=_OPERATORS)
    running = [p["status"]["podIP"] for p in pods if p["status"].get("podIP")]
    if not running:
        raise CommandError("No operator runs in namespace sluice-system.", ExitCode.NOT_READY)
    return [f"http://{address}:{_PORT}" for address in running]


def _fetch(url: str) -> list[bytes]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.netloc:
        raise CommandError(
            f"{url} is no address of an admin port; give one such as http://127.0.0.1:{_PORT}.",
            ExitCode.USAGE,
        )
    try:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_PATIENCE)
        try:
            connection.request("GET", "/recording")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CommandError(f"{url} does not give its recording: {error}.") from error
    if response.status != http.client.OK:
        raise CommandError(f"{url} is not the admin port of an operator ({response.status}).")
    return body.splitlines(keepends=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--without",
    type=click.Choice(["liveness", "gateway", "signals"]),
    help="What would have been decided if this evidence had not come: misses of liveness probes,"
    " failures that gateways saw, or the load and latency that they measured.",
)
@output_option
def replay(*, file: Path, without: str | None, output: str) -> None:
    """Plan recorded passes again, and compare bit for bit.

    Ends with 1, and says where, if some plan is another one now.
    """
    if without is not None:
        _show_otherwise(file, without, output)
        return
    from sluice.decide.replay import replay as go_over  # noqa: PLC0415

    count, differing = 0, []
    for _, difference in go_over(_read(file)):
        count += 1
        if difference is not None:
            differing.append(difference)
    if not differing:
        text = f"{count} passes: every plan and every memory is the same, bit for bit."
        print_result({"passes": count, "different": []}, text, output=output)
        return
    shown = [_describe(one) for one in differing[:_SHOWN]]
    print_result(
        {"passes": count, "different": [_as_json(one) for one in differing]},
        "\n".join(shown),
        output=output,
    )
    raise CommandError(
        f"{len(differing)} of {count} passes are planned otherwise by this version of Sluice."
    )


def _show_otherwise(file: Path, without: str, output: str) -> None:
    from sluice.decide.replay import Evidence, replay_without  # noqa: PLC0415

    turns = list(replay_without(_read(file), Evidence(without)))
    lines = [f"without {without}: {len(turns)} passes would have decided otherwise"]
    for turn in turns:
        lines += ["", _format_time(turn.at)]
        lines += [f"  decided  {one}" for one in turn.decided] or ["  decided  nothing"]
        lines += [f"  instead  {one}" for one in turn.instead] or ["  instead  nothing"]
    value = [{"at": t.at, "decided": t.decided, "instead": t.instead} for t in turns]
    print_result({"without": without, "turns": value}, "\n".join(lines), output=output)


def _read(file: Path) -> "Iterator[PassRecord]":
    from sluice.model.recording import RecordingError, read_record  # noqa: PLC0415

    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield read_record(line, f"{file} line {number}")
    except OSError as error:
        raise CommandError(f"Cannot read {file}: {error.strerror}.", ExitCode.USAGE) from error
    except RecordingError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _describe(one: "Difference") -> str:
    return (
        f"pass {one.number} at {_format_time(one.at)}: another {one.what}\n"
        f"  recorded  …{one.recorded}…\n  now       …{one.replayed}…"
    )


def _as_json(one: "Difference") -> dict[str, Any]:
    return {"at": one.at, "pass": one.number, "what": one.what}


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
