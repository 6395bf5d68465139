"""Recordings of passes: read from files, or fetched from the admin port of an operator."""

import contextlib
import http.client
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from sluice.cli.addresses import read_admin_address
from sluice.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from sluice.model.recording import PassRecord

_OPERATORS = "app.kubernetes.io/name=sluice-operator"
_PODS = "/api/v1/namespaces/sluice-system/pods"
_PORT = 8081
_PATIENCE = 30.0
_ENDINGS = (".jsonl", ".jsonl.gz")

url_option = click.option(
    "--url",
    help="Admin port of an operator on any cluster, such as http://127.0.0.1:8081 after 'kubectl "
    "port-forward'; default: the operators of the embedded cluster.",
)


def find_operators(url: str | None, name: str) -> list[str]:
    """Return the addresses of admin ports: the given one, or those of the embedded cluster.

    Raises:
        CommandError: no operator runs in it.
    """
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.kubernetes_api import list_objects  # noqa: PLC0415

    if url is not None:
        return [url]
    pods = list_objects(find_cluster(name).state, _PODS, label_selector=_OPERATORS)
    running = [p["status"]["podIP"] for p in pods if p["status"].get("podIP")]
    if not running:
        raise CommandError("No operator runs in namespace sluice-system.", ExitCode.NOT_READY)
    return [f"http://{address}:{_PORT}" for address in running]


def fetch_lines(url: str, since: str | None = None) -> Iterator[bytes]:
    """Yield an operator's recorded passes, one a line with its end.

    Args:
        url: of its admin port.
        since: how far back, as a Go-style duration; None for the last 200.

    Raises:
        CommandError: they cannot be had, or not all of them.
    """
    place = read_admin_address(url, port=_PORT)
    path = "/recording" if since is None else f"/recording?since={quote(since)}"
    try:
        connection = http.client.HTTPConnection(place, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            with connection.getresponse() as response:
                yield from _read_whole_lines(url, response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CommandError(f"{url} does not give its recording: {error}.") from error


def _read_whole_lines(url: str, response: http.client.HTTPResponse) -> Iterator[bytes]:
    if response.status != http.client.OK:
        said = response.read(200).decode(errors="replace")
        raise CommandError(
            f"{url} gives no recording ({response.status}: {said})."
            " Is it the admin port of an operator?"
        )
    for line in response:
        if not line.endswith(b"\n"):
            raise CommandError(f"{url} ended in the middle of a pass. Try again.")
        yield line


def parse_since(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Check the value of an option that says how far back."""
    from sluice.api.quantities import parse_duration  # noqa: PLC0415

    if text is not None:
        try:
            parse_duration(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return text


def read_passes(paths: Iterable[Path], cut: list[str]) -> "Iterator[PassRecord]":
    """Yield the passes of files and directories, as named.

    Args:
        paths: recordings, plain or gzip; of a directory all of them, by name.
        cut: takes a sentence for each file that ends in the middle of a pass.

    Raises:
        CommandError: a file cannot be read, or holds something else.
    """
    from sluice.control.passfiles import read_lines  # noqa: PLC0415
    from sluice.model.recording import RecordingError, read_record  # noqa: PLC0415

    for path in _expand(paths):
        number = 0
        try:
            for number, (line, whole) in enumerate(read_lines(path), 1):
                try:
                    yield read_record(line, f"{path} line {number}")
                except RecordingError as error:
                    if whole:
                        raise CommandError(str(error), ExitCode.USAGE) from error
                    cut.append(f"{path} ends in the middle of pass {number}; it was read to there.")
        except OSError as error:
            raise CommandError(f"Cannot read {path}: {error.strerror}.", ExitCode.USAGE) from error


def _expand(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.iterdir() if each.name.endswith(_ENDINGS))
        if not found:
            raise CommandError(
                f"{path} holds no recording: no file ends in {' or '.join(_ENDINGS)}.",
                ExitCode.USAGE,
            )
        yield from found
