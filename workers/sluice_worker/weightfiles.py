"""Reads the tensors of a checkpoint in Hugging Face layout: one file, or shards and their index."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes  # noqa: F401  # teaches NumPy bfloat16, which safetensors then returns
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sluice_worker.errors import CheckpointError

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
DTYPES: Final = ("bfloat16", "float16", "float32")
"""Types that weights may be stored in; they are computed with in float32."""

_OTHERS: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
"""Files that may hold the same weights as pickles, which run what is in them."""
_HEADER_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""Bytes; as the safetensors library has it."""

_LONGEST_NAME: Final = 255
"""Characters; file systems take no longer ones."""

Tensors = dict[str, NDArray[Any]]


def list_weight_files(path: Path) -> tuple[str, ...]:
    """Return the names of all files that the weights in a directory are read from.

    Raises:
        CheckpointError: there are none, or the index is not one.
    """
    if (path / WHOLE).is_file():
        return (WHOLE,)
    if (path / INDEX).is_file():
        return (INDEX, *dict.fromkeys(_read_index(path / INDEX).values()))
    hint = next((name for name in _OTHERS if (path / name).exists()), None)
    told = f"; {hint} is not read: save the model as safetensors" if hint else ""
    raise CheckpointError(f"the checkpoint {path} lacks {WHOLE} (or {INDEX} and its shards){told}")


def read_tensors(path: Path) -> Tensors:
    """Return all tensors of a checkpoint by name, as they are stored.

    Raises:
        CheckpointError: a file or a tensor is missing or damaged, or stored in another type than
            `DTYPES`.
    """
    first, *shards = list_weight_files(path)
    if first == WHOLE:
        return _read_file(path / WHOLE)
    index = _read_index(path / INDEX)
    tensors: Tensors = {}
    for shard in shards:
        if not (path / shard).is_file():
            lost = next(name for name, file in index.items() if file == shard)
            raise CheckpointError(f"the checkpoint {path} lacks {shard}, which has {lost}")
        found = _read_file(path / shard)
        for name, tensor in found.items():
            if index.get(name) == shard:
                tensors[name] = tensor
    for name, shard in index.items():
        if name not in tensors:
            raise CheckpointError(f"{path / shard} lacks the tensor {name} that {INDEX} names")
    return tensors


def _read_index(path: Path) -> Mapping[str, str]:
    """Return the file of each tensor."""
    try:
        files = json.loads(path.read_text())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error!r}") from error
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path} names no tensors in its weight_map")
    for name, file in files.items():
        # A name that leads out of the directory is nobody's checkpoint.
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or file in ("", ".", "..")
            or len(file) > _LONGEST_NAME
        ):
            told = f"{path} has {name[:80]} in {str(file)[:80]!r}"
            raise CheckpointError(f"{told}, which is no name of a file")
    return files


def _read_file(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {_find_damage(path) or error}") from error
    except AttributeError as error:  # how safetensors says that NumPy has no such type
        raise CheckpointError(
            f"{path} has tensors of a type that is not supported ({error});"
            f" supported are {', '.join(DTYPES)}"
        ) from error


def _find_damage(path: Path) -> str:
    """Return what is wrong with a file that cannot be read, "" if that cannot be told."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(_HEADER_BYTES), "little")
            if not 0 < length <= min(_LONGEST_HEADER, size - _HEADER_BYTES):
                return f"it ends within its header ({size} bytes), or is no safetensors file"
            header = json.loads(file.read(length))
            cut = next(_list_cut(header, size - _HEADER_BYTES - length), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return f"it is cut off within the tensor {cut}" if cut else ""


def _list_cut(header: Mapping[str, Any], size: int) -> Iterator[str]:
    """Yield the tensors that end after the end of the file, in the file's order."""
    tensors = {name: one["data_offsets"] for name, one in header.items() if name != "__metadata__"}
    for name, (_, end) in sorted(tensors.items(), key=lambda item: item[1][0]):
        if end > size:
            yield name
