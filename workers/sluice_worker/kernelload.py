"""Loads the compiled kernels: an object file that `kernelbuild` made at set-up.

Machine code is loaded as it is, by LLVM's loader; nothing is compiled in a pod, and numba is not
imported. An object file is for one level of instructions, and any processor that has these runs it;
the kernels' results do not depend on the level.
"""

import ctypes
import hashlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm

DIRECTORY: Final = Path(__file__).parent / "compiled_kernels"
"""Where object files lie; part of an installation, never written to by a worker."""
SOURCES: Final = ("steplayout.py", "vectors.py", "roundkernels.py", "kernels.py")
"""What the kernels are made of: other sources need other object files."""
DIGEST: Final = 32
"""Bytes of the digest that an object file begins with."""
EXPORTS: Final = {"run_layers": 5, "finish": 2, "round_rows": 5}
"""Kernels that are called from Python, with the numbers of their arguments."""
LEVELS: Final[dict[str, tuple[str, ...]]] = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"),
}
"""Levels of x86-64 by what a processor must have for them, best first (x86-64 psABI); the lower
ones have no fused multiply-add, without which the kernels would take longer than NumPy."""
COMMAND: Final = "python -m sluice_worker.kernelbuild"


class KernelsError(Exception):
    """The compiled kernels cannot be used; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels as functions of addresses; `kernels` says what they do.

    Attributes:
        level: of instructions that they are compiled for.
    """

    level: str
    run_layers: Callable[..., int]
    finish: Callable[..., int]
    round_rows: Callable[..., int]


def list_levels() -> list[str]:
    """Return the levels of instructions that this processor has, best first."""
    if platform.machine() in ("aarch64", "arm64"):
        return ["aarch64"]
    has: dict[str, bool] = llvm.get_host_cpu_features()
    found = [level for level, needs in LEVELS.items() if all(has.get(one) for one in needs)]
    # A level has what the ones below it have.
    return found if "x86-64-v3" in found else []


def name_object(level: str) -> Path:
    """Return the path of the object file for a level and the sources as they are."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return DIRECTORY / f"kernels-{level}-{digest.hexdigest()[:16]}.o"


def seal(content: bytes) -> bytes:
    """Return an object file behind its digest."""
    return hashlib.sha256(content).digest() + content


@cache
def load_kernels() -> Kernels:
    """Load the best kernels that this processor can run; they stay for the life of the process.

    Raises:
        KernelsError: there are none.
    """
    levels = list_levels()
    if not levels:
        raise KernelsError(
            f"this processor ({platform.machine()}) has no fused multiply-add that the kernels are"
            " compiled for"
        )
    for level in levels:
        path = name_object(level)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KernelsError(f"cannot read {path}: {error.strerror}") from error
        if seal(content[DIGEST:]) != content:  # LLVM would end the process
            raise KernelsError(f"{path} is damaged: '{COMMAND} --anew' makes it anew")
        return _link(level, content[DIGEST:], path)
    raise KernelsError(f"there is no {name_object(levels[0])}: '{COMMAND}' makes it")


_kept: list[Any] = []
"""Engines that hold machine code in memory."""


def _link(level: str, content: bytes, path: Path) -> Kernels:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    _kept.append(engine)
    return Kernels(level, *_find(engine, path))


def _find(engine: Any, path: Path) -> Iterator[Callable[..., int]]:
    """Yield the exported functions; numba's convention has two pointers first, unused by these."""
    for name, count in EXPORTS.items():
        address = engine.get_function_address(f"sluice_{name}")
        if not address:
            raise KernelsError(f"{path} lacks {name}: '{COMMAND} --anew' makes it anew")
        form = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * count)
        call = form(address)
        two = ctypes.create_string_buffer(16), ctypes.create_string_buffer(16)
        first, second = (ctypes.addressof(one) for one in two)
        _kept.append(two)
        yield _bind(call, first, second)


def _bind(call: Callable[..., int], first: int, second: int) -> Callable[..., int]:
    def run(*args: int) -> int:
        return call(first, second, *args)

    return run
