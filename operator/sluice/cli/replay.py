"""`sluice recording` and `sluice replay`: fetch what the operator saw, and go over it again."""

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.output import name_option, output_option, print_result
from sluice.cli.recordings import (
    fetch_lines,
    find_operators,
    parse_since,
    read_passes,
    url_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluice.decide.replay import Difference
    from sluice.model.recording import PassRecord

_SHOWN = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--since",
    metavar="DURATION",
    callback=parse_since,
    help="All passes of this time, such as 2h, from the operator's disk; default: the last 200.",
)
@url_option
@name_option
@output_option
def recording(*, file: Path, since: str | None, url: str | None, name: str, output: str) -> None:
    """Save passes of the operator: the last 200, or all since some time.

    A pass is all that the planner saw and remembered, and what it planned. A FILE that ends in .gz
    is compressed.
    """
    places = find_operators(url, name)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with _open(beside, packed=file.suffix == ".gz") as out:
            count, first, last = _save(
                (line for at in places for line in fetch_lines(at, since)), out
            )
        if not count:
            said = "No operator has made a pass yet." if since is None else _NOTHING.format(since)
            raise CommandError(said, ExitCode.NOT_READY)
        beside.replace(file)
    except OSError as error:
        raise CommandError(f"Cannot write {file}: {error.strerror}.", ExitCode.USAGE) from error
    finally:
        beside.unlink(missing_ok=True)
    text = (
        f"{count} passes stand in {file}, from {_format_time(first)} to {_format_time(last)}."
        f" Go over them with 'sluice replay {file}'."
    )
    value = {"file": str(file), "passes": count, "from": first, "to": last}
    print_result(value, text, output=output)


_NOTHING = "No operator recorded a pass in the last {}."


def _open(path: Path, *, packed: bool) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "wb")) if packed else path.open("wb")


def _save(lines: "Iterable[bytes]", out: BinaryIO) -> tuple[int, float, float]:
    """Write lines; return how many, and the times of the first and the last pass."""
    from sluice.model.recording import find_time  # noqa: PLC0415

    count, first, last = 0, float("inf"), float("-inf")
    for line in lines:
        out.write(line)
        at = find_time(line)
        count, first, last = count + 1, min(first, at), max(last, at)
    return count, first, last


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["liveness", "gateway", "signals", "known-answers", "conditions"]),
    help="What would have been decided if this evidence had not come: misses of liveness probes,"
    " failures that gateways saw, the load and latency that they measured, wrong answers to known"
    " prompts, or conditions of nodes. May be given more than once.",
)
@output_option
def replay(*, files: tuple[Path, ...], without: tuple[str, ...], output: str) -> None:
    """Plan recorded passes again, and compare bit for bit.

    FILES are recordings, plain or compressed, or directories of them. Ends with 1, and says where,
    if some plan is another one now.
    """
    if without:
        _show_otherwise(files, without, output)
        return
    from sluice.decide.replay import replay as go_over  # noqa: PLC0415

    count, differing, cut = 0, [], list[str]()
    for _, difference in go_over(read_passes(files, cut)):
        count += 1
        if difference is not None:
            differing.append(difference)
    _tell_cuts(cut, count)
    if not differing:
        text = f"{count} passes: every plan and every memory is the same, bit for bit."
        print_result({"passes": count, "different": [], "cut": cut}, text, output=output)
        return
    shown = [_describe(one) for one in differing[:_SHOWN]]
    print_result(
        {"passes": count, "different": [_as_json(one) for one in differing], "cut": cut},
        "\n".join(shown),
        output=output,
    )
    raise CommandError(
        f"{len(differing)} of {count} passes are planned otherwise by this version of Sluice."
    )


def _tell_cuts(cut: list[str], count: int) -> None:
    for sentence in cut:
        click.echo(sentence, err=True)
    if not count:
        raise CommandError("No whole pass stands in it.", ExitCode.USAGE)


def _show_otherwise(files: tuple[Path, ...], without: tuple[str, ...], output: str) -> None:
    from sluice.decide.replay import Evidence, replay_without  # noqa: PLC0415

    cut: list[str] = []
    count = 0

    def read() -> "Iterator[PassRecord]":
        nonlocal count
        for count, record in enumerate(read_passes(files, cut), 1):  # noqa: B007
            yield record

    turns = list(replay_without(read(), *map(Evidence, without)))
    _tell_cuts(cut, count)
    lines = [f"without {' and '.join(without)}: {len(turns)} passes would have decided otherwise"]
    for turn in turns:
        lines += ["", _format_time(turn.at)]
        lines += [f"  decided  {one}" for one in turn.decided] or ["  decided  nothing"]
        lines += [f"  instead  {one}" for one in turn.instead] or ["  instead  nothing"]
    value = [{"at": t.at, "decided": t.decided, "instead": t.instead} for t in turns]
    print_result({"without": without, "turns": value}, "\n".join(lines), output=output)


def _describe(one: "Difference") -> str:
    return (
        f"pass {one.number} at {_format_time(one.at)}: another {one.what}\n"
        f"  recorded  …{one.recorded}…\n  now       …{one.replayed}…"
    )


def _as_json(one: "Difference") -> dict[str, Any]:
    return {"at": one.at, "pass": one.number, "what": one.what}


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
