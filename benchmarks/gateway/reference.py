"""Writes what streams say when nothing happens to them: by a worker of its own, and no gateway.

    python benchmarks/gateway/reference.py --numerics fp8-block --streams 800 --directory DIR

The worker is a process of its own, of the same engine, weights and numerics, with no device
emulated. The file has the streams' texts and token ids; `kills.py` and `cluster_kills.py` write it
by this program where it is missing.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from killstreams import MODEL, Streams

from sluice.cli.demo.reference import AT_ONCE, run_worker
from sluice.devcluster.images import find_models

Reference = dict[int, tuple[str, list[int]]]
"""Text and token ids of each stream, by its number."""
TOKENS = 96


def name_file(directory: Path, numerics: str, streams: int, tokens: int) -> Path:
    """Return where the reference of so many streams lies."""
    return directory / f"reference-{numerics}-{streams}x{tokens}.json"


async def compute_reference(numerics: str, count: int, tokens: int) -> dict[str, Any]:
    """Return texts and token ids by stream, as JSON has them.

    Raises:
        CommandError: The worker does not start.
        RuntimeError: It did not answer one of the streams.
    """
    models = find_models() or Path("workers/models")
    async with run_worker(models / MODEL, numerics) as url:
        streams = Streams([url], count=count, at_once=AT_ONCE, tokens=tokens)
        await streams.run()
    for number, told in streams.told.items():
        if not told.is_whole or len(told.tokens) != tokens:
            raise RuntimeError(f"stream {number} of the reference is not whole: {told.error}")
    return {str(number): [told.text, told.tokens] for number, told in streams.told.items()}


def load_reference(directory: Path, numerics: str, count: int, tokens: int) -> Reference:
    """Return a reference, written now by another process if it is missing."""
    file = name_file(directory, numerics, count, tokens)
    if not file.exists():
        command = [sys.executable, str(Path(__file__)), "--numerics", numerics]
        command += ["--streams", str(count), "--tokens", str(tokens), "--directory", str(directory)]
        subprocess.run(command, check=True)
    found = json.loads(file.read_text())
    return {int(number): (text, tokens) for number, (text, tokens) in found.items()}


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--numerics", default="fp8-block")
    parser.add_argument("--streams", type=int, default=800)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    parser.add_argument("--directory", type=Path, required=True)
    options = parser.parse_args()
    found = asyncio.run(compute_reference(options.numerics, options.streams, options.tokens))
    options.directory.mkdir(parents=True, exist_ok=True)
    file = name_file(options.directory, options.numerics, options.streams, options.tokens)
    file.write_text(json.dumps(found))
    print(f"{file} has {len(found)} streams of {options.tokens} tokens.", file=sys.stderr)


if __name__ == "__main__":
    main()
