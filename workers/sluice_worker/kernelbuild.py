"""Compiles the kernels: `python -m sluice_worker.kernelbuild`, run at set-up and in image builds.

It writes an object file for each wanted level of instructions that has none yet. This alone needs
numba; a worker loads what is written (`kernelload`).
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click

from sluice_worker.kernelload import DIRECTORY, EXPORTS, LEVELS, list_levels, name_object, seal

_TARGET: Final = "SLUICE_KERNEL_LEVEL"
"""Environment variable with the level that a process compiles for: numba takes one a process."""


def write_object(level: str) -> None:
    """Compile for a level in a process of its own, so that no reader ever sees half a file.

    Raises:
        subprocess.CalledProcessError: it failed; its words are on standard error.
    """
    # `generic` is LLVM's name for what every 64-bit ARM has.
    name = level if level in LEVELS else "generic"
    # LLVM takes half of the widest registers unless told: a habit of processors long gone.
    features = "-prefer-256-bit" if level == "x86-64-v4" else ""
    environment = os.environ | {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        _TARGET: level,
    }
    command = [sys.executable, "-m", "sluice_worker.kernelbuild", "--here"]
    subprocess.run(command, env=environment, check=True)


def compile_here(level: str) -> None:
    """Compile for a level in this process, whose environment names it."""
    path = name_object(level)
    content = _emit(_translate())
    DIRECTORY.mkdir(exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_bytes(seal(content))
    beside.replace(path)


def _translate() -> str:
    """Return the kernels as LLVM's text, their names as `kernelload` looks for them."""
    from numba import int64, void  # noqa: PLC0415  # seconds: not before it is known to be needed

    from sluice_worker import kernels  # noqa: PLC0415

    texts = []
    for name, count in EXPORTS.items():
        function: Any = getattr(kernels, name)
        function.compile(void(*[int64] * count))
        (compiled,) = function.overloads.values()
        text: str = compiled.library.get_llvm_str()
        texts.append(text.replace(compiled.fndesc.llvm_func_name, f"sluice_{name}"))
    return _join(texts)


def _join(texts: list[str]) -> str:
    """Return one module of several; what they share is linked once."""
    import llvmlite.binding as llvm  # noqa: PLC0415

    first, *others = (llvm.parse_assembly(text) for text in texts)
    for other in others:
        first.link_in(other)
    return str(first)


def _emit(text: str) -> bytes:
    """Return machine code for the processor that the environment names."""
    import llvmlite.binding as llvm  # noqa: PLC0415

    llvm.initialize_native_asmprinter()
    cpu = os.environ["NUMBA_CPU_NAME"]
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu,
        features=os.environ["NUMBA_CPU_FEATURES"],
        opt=3,
        reloc="pic",
        codemodel="large",
        jit=True,
    )
    content: bytes = target.emit_object(llvm.parse_assembly(text))
    return content


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice([*LEVELS, "aarch64"]),
    help="Level of instructions; default: the best of this machine. An image takes several.",
)
@click.option("--anew", is_flag=True, help="Compile what is there already, too.")
@click.option("--here", is_flag=True, hidden=True)
def main(*, levels: tuple[str, ...], anew: bool, here: bool) -> None:
    """Compile the worker's kernels, unless that is done already."""
    if here:
        compile_here(os.environ[_TARGET])
        return
    wanted = levels or tuple(list_levels()[:1])
    if not wanted:
        click.echo("no kernels: this processor lacks what they need; workers will use NumPy")
    for level in wanted:
        path = name_object(level)
        if anew or not path.exists():
            click.echo(f"compiling the worker's kernels for {level}")
            write_object(level)
        for old in _list_old(path, level):
            old.unlink(missing_ok=True)


def _list_old(path: Path, level: str) -> list[Path]:
    return [old for old in DIRECTORY.glob(f"kernels-{level}-*.o") if old != path]


if __name__ == "__main__":
    main()
