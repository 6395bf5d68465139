"""`sluice parity CLASS CLASS`: would answers change if traffic moved between two classes?"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click

from sluice.cli.classes import find_classes
from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.kubeapi import kubeconfig_option
from sluice.cli.output import StepDisplay, name_option, output_option, print_result


class Side(NamedTuple):
    """A class: its name, what it computes in, what says so, and which share is made wrong."""

    name: str
    numerics: str
    source: str
    corruption: str


@click.command()
@click.argument("first", metavar="CLASS")
@click.argument("second", metavar="CLASS")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Checkpoint with tokenizer.json and heldout.jsonl; default: the compact model.",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="AcceleratorClasses in YAML; default: those of a live cluster, or else the samples.",
)
@click.option(
    "--numerics",
    multiple=True,
    metavar="CLASS=NAME",
    help="What if the class computed in these? Default: its spec.numerics, else what its emulation"
    " profile stands for.",
)
@click.option(
    "--corrupt",
    multiple=True,
    metavar="CLASS=SHARE",
    help="What if its devices made this share of the values wrong, such as 0.001?",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the numbers here.",
)
@kubeconfig_option
@name_option
@output_option
def parity(
    *,
    first: str,
    second: str,
    model: Path | None,
    classes: Path | None,
    numerics: tuple[str, ...],
    corrupt: tuple[str, ...],
    json_file: Path | None,
    kubeconfig: str | None,
    name: str,
    output: str,
) -> None:
    """Compare what two accelerator classes make of a model, and each with float32.

    Both read the same questions, right answers and texts, and say what they expect after each
    token. Ends with 10 if a bound is broken or the gate is blind. Workers of the classes compute in
    these numerics, unless a pool's variant says otherwise; here they are computed on this machine,
    and no running worker is asked. docs/numerics.md says how to read it.
    """
    from sluice.devcluster.images import find_models  # noqa: PLC0415

    if first == second:
        raise CommandError(
            f"'{first}' is given twice: name two classes to compare.", ExitCode.USAGE
        )
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise CommandError(
            f"--json {json_file}: there is no directory {json_file.parent}.", ExitCode.USAGE
        )
    models = find_models()
    if model is None and models is None:
        raise CommandError("There is no compact model here: give --model DIR.", ExitCode.USAGE)
    asked = _parse(numerics, "--numerics", "NAME", (first, second))
    wrong = _parse(corrupt, "--corrupt", "SHARE", (first, second))
    source = find_classes(classes, kubeconfig, name)
    sides = []
    for one in (first, second):
        own, why = _find_numerics(one, source.read(one), asked.get(one))
        sides.append(Side(one, own, why, wrong.get(one, "0")))
    found = compare_sides(model or Path(models or ".") / "compact", sides)
    found["classesFrom"] = source.place
    if json_file is not None:
        _write(json_file, found)
    print_result(found, format_parity(found), output=output)
    if found["outcome"] == "blind":
        raise CommandError(f"The gate is blind: {found['reasons'][0]}.", ExitCode.NO_PARITY)
    if found["outcome"] == "fail":
        checks = [check for one in found["comparisons"] for check in one["checks"]]
        count = sum(check["outcome"] == "fail" for check in checks)
        raise CommandError(
            f"{first} and {second} are no match; bounds broken: {count}.", ExitCode.NO_PARITY
        )


def _parse(
    given: tuple[str, ...], option: str, what: str, known: tuple[str, str]
) -> dict[str, str]:
    """Return the values of an option by class."""
    values = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (equals and value):
            raise CommandError(
                f"{option} {one}: it should be CLASS={what}, such as {known[0]}={what}.",
                ExitCode.USAGE,
            )
        if name not in known:
            raise CommandError(
                f"{option} {one}: '{name}' is not compared; {' and '.join(known)} are.",
                ExitCode.USAGE,
            )
        values[name] = value
    return values


def _find_numerics(name: str, spec: Any, asked: str | None) -> tuple[str, str]:
    """Return what a class computes in, and what says so."""
    from sluice.api.numerics import choose_numerics  # noqa: PLC0415

    if asked is not None:
        return asked, "--numerics"
    chosen = choose_numerics(None, spec)
    if chosen is None:
        raise CommandError(
            f"The AcceleratorClass '{name}' has neither spec.numerics nor spec.emulation, so that"
            f" nothing says what it computes in: give --numerics {name}=NAME.",
            ExitCode.USAGE,
        )
    if spec.numerics is not None:
        return chosen, "its spec.numerics"
    return chosen, f"profile {spec.emulation.profile}"


def compare_sides(model: Path, sides: list[Side]) -> dict[str, Any]:
    """Have the engine compare; it is another program, and shares no code with this one.

    Returns:
        What the engine has found, and for each class what says what it computes in.

    Raises:
        CommandError: it cannot.
    """
    command = [sys.executable, "-m", "sluice_worker.comparison", f"--model={model}"]
    command += [f"--side={one.name}={one.numerics}:{one.corruption}" for one in sides]
    with (
        tempfile.TemporaryFile("w+") as said,
        StepDisplay() as display,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as engine,
    ):
        try:
            found = _follow(engine.stdout or (), display)
            code = engine.wait()
        except BaseException:
            engine.kill()
            raise
        said.seek(0)
        lines = said.read().strip().splitlines()
    if found is None:
        why = lines[-1] if lines else f"the engine ended with {code}"
        why = why.removeprefix("Error: ").removeprefix("Invalid value for '--side': ")
        raise CommandError(
            f"Nothing was compared: {why.removesuffix('.')}.",
            ExitCode.USAGE if code == ExitCode.USAGE else ExitCode.FAILED,
        )
    for side, described in zip(sides, found["classes"], strict=True):
        described["from"] = side.source
    return found


def _follow(lines: Iterable[str], display: StepDisplay) -> dict[str, Any] | None:
    """Show the engine's progress; return its result, None if it ended without one."""
    step, found = "", None
    for line in lines:
        told = json.loads(line)
        if "result" in told:
            found = told["result"]
            continue
        if told["step"] != step:
            step = told["step"]
            display.begin(step)
        display.advance(told["done"], told["total"])
    return found


def _write(file: Path, found: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise CommandError(f"Cannot write {file}: {error.strerror}.", ExitCode.USAGE) from error


def format_parity(found: dict[str, Any]) -> str:
    """Return what was compared, a table of it, and what it comes to."""
    lines = [_describe_class(one) for one in found["classes"]]
    prompts = found["prompts"]
    lines += [
        f"classes: {found['classesFrom']}; model: {found['model']['path']}; {found['about']}",
        (
            f"{prompts['questions']} questions ({', '.join(prompts['tasks'])}; float32 answers"
            f" {prompts['right']} rightly) and {prompts['texts']} texts; mean entropy"
            f" {prompts['entropy']:.2f} nat, at least {prompts['leastEntropy']:g} or the gate is"
            " blind"
        ),
        "",
    ]
    rows: list[tuple[str, ...]] = [
        ("", "same likeliest", "mean KL, nat", "R-ratio", "right answers", "")
    ]
    for over, positions in (
        ("answers", prompts["answerPositions"]),
        ("everything", prompts["positions"]),
    ):
        about = "right answers" if over == "answers" else "questions, answers and texts"
        rows.append((f"on {positions:,} tokens of {about}", "", "", "", "", ""))
        rows += [_format_row(one, prompts) for one in found["comparisons"] if one["over"] == over]
    widths = [max(len(row[column]) for row in rows if row[1]) for column in range(6)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines += ["", found["outcome"], *(f"  {reason}" for reason in found["reasons"])]
    return "\n".join(lines)


def _describe_class(one: dict[str, Any]) -> str:
    text = f"{one['name']} in {one['numerics']} (of {one['from']})"
    if one["corruption"]:
        text += f", {one['corruption']:g} of its values made wrong"
    return text


def _format_row(one: dict[str, Any], prompts: dict[str, Any]) -> tuple[str, ...]:
    checks = {check["measure"]: check for check in one["checks"]}
    right = f"{one['right']} of {prompts['questions']}" if one["right"] is not None else ""
    return (
        f"  {one['of']} against {one['against']}",
        _compare_with(f"{one['agreement']:.2%}", checks.get("agreement"), ("≥", "<"), ".0%"),
        _compare_with(_format_small(one["divergence"]), checks.get("divergence"), ("≤", ">"), "g"),
        _compare_with(_format_ratio(one), checks.get("ratio"), ("<", "≥"), "g"),
        _compare_with(right, checks.get("score"), ("≥", "<"), ".0f"),
        one["outcome"] or "no bound",
    )


def _compare_with(
    value: str, check: dict[str, Any] | None, signs: tuple[str, str], form: str
) -> str:
    """Return a value and its bound with the sign that is true, and a mark if it is broken."""
    if check is None:
        return value
    kept = check["outcome"] == "pass"
    mark = "" if kept else f" {check['outcome'].upper()}"
    return f"{value} {signs[0] if kept else signs[1]} {check['bound']:{form}}{mark}"


def _format_small(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2g}" if value >= 1e-5 else f"{value:.0e}"  # noqa: PLR2004


def _format_ratio(one: dict[str, Any]) -> str:
    if one["ratio"] is not None:
        return f"{one['ratio']:.2f}"
    return "infinite" if any(check["measure"] == "ratio" for check in one["checks"]) else ""
