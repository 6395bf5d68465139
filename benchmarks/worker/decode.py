"""How fast the worker's decoder is, beside its peers, with the same weights on one core.

    python benchmarks/worker/decode.py
    benchmarks/worker/peers.sh DIR && python benchmarks/worker/decode.py --peers DIR
    python benchmarks/worker/decode.py --memory 1000000

The weights are random bfloat16 values in the compact model's shape: speed does not depend on what a
model has learned. Contenders take turns, a measurement each, so that all see the same machine; a
number is the median of its turns. With one thread it is tokens a second of CPU time, which others
on the machine take nothing from; peers with two threads are measured by the clock on the wall.
Batch invariance is always on in ours; no peer has it. Token ids go in and come out: nobody
tokenises. `--memory` generates so many tokens with a small model and tells what that left.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from models.training.layout import COMPACT, CONTEXT, Shape, describe_config, list_shapes
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.engine import Engine, Limits
from sluice_worker.kernelload import load_kernels
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams

BATCHES = (1, 8, 32)
PREFILL = 512
PROMPT = 32
"""Tokens of each sequence before its decode steps are timed."""
STEPS = 32
BFLOAT16_BYTES = 2
PEERS = ("torch", "transformers", "llama.cpp f32", "llama.cpp f16", "llama.cpp q8_0")
SMALL = Shape(width=32, layers=2, heads=4, kv_heads=2, head_width=8, hidden=64, vocabulary=256)

Measure = Callable[[str, int], float]
"""Seconds of a decode step with so many sequences, or of a prefill with so many tokens."""


def write_model(path: Path, shape: Shape) -> Path:
    """Write a checkpoint of random bfloat16 weights, in Hugging Face layout."""
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.normal(scale=size[-1] ** -0.5 if len(size) > 1 else 1.0, size=size)
        for name, size in list_shapes(shape).items()
    }
    path.mkdir(parents=True, exist_ok=True)
    narrow = {name: tensor.astype(bfloat16) for name, tensor in tensors.items()}
    save_file(narrow, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(describe_config(shape)))
    (path / "tokenizer.json").write_text("{}")
    return path


def draw_tokens(count: int) -> list[int]:
    """Return the tokens that every contender reads."""
    drawn = np.random.default_rng(2).integers(5, COMPACT.vocabulary, count)
    return [int(token) for token in drawn]


def time_ours(decoder: Decoder) -> Measure:
    """Return what measures a decoder of ours, the choice of the likeliest token included."""

    def measure(kind: str, size: int) -> float:
        if kind == "prefill":
            cache = KeyValueCache(decoder.config, size)
            start = time.process_time()
            decoder.run([Chunk(draw_tokens(size), 0, cache)])[0].argmax()
            return time.process_time() - start
        caches = [KeyValueCache(decoder.config, PROMPT + STEPS) for _ in range(size)]
        rows = decoder.run([Chunk(draw_tokens(PROMPT), 0, cache) for cache in caches])
        start = time.process_time()
        for place in range(PROMPT, PROMPT + STEPS):
            tokens = rows.argmax(-1).tolist()
            rows = decoder.run(
                [Chunk([token], place, one) for token, one in zip(tokens, caches, strict=True)]
            )
        return (time.process_time() - start) / STEPS

    return measure


class Peer:
    """A contender in an environment and a process of its own; answers a line for a line."""

    def __init__(self, environment: Path, model: Path, name: str, threads: int) -> None:
        program = Path(__file__).with_name("decode_peers.py")
        command = [environment / "bin" / "python", program, model, name, str(threads)]
        pinned = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [str(one) for one in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | pinned | {"OPENBLAS_NUM_THREADS": str(threads)},
        )

    def ask(self, **question: Any) -> Any:
        """Return the answer to a question.

        Raises:
            RuntimeError: the peer has ended; its words are on standard error.
        """
        streams = self._process.stdin, self._process.stdout
        assert streams[0] is not None and streams[1] is not None  # noqa: S101, PT018
        try:
            streams[0].write(json.dumps(question) + "\n")
            streams[0].flush()
            return json.loads(streams[1].readline())
        except (OSError, ValueError) as error:
            raise RuntimeError("it has ended") from error

    def measure(self, kind: str, size: int) -> float:
        """Return the seconds of a step."""
        tokens = draw_tokens(size if kind == "prefill" else PROMPT)
        return float(self.ask(kind=kind, size=size, tokens=tokens, steps=STEPS))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def find_roofline(shape: Shape, repeats: int) -> dict[str, float]:
    """Return what one core does: GFLOP/s of BLAS, GB/s of reading the weights as float32."""
    side, size = 768, sum(int(np.prod(one)) for one in list_shapes(shape).values())
    a, weights = np.ones((side, side), np.float32), np.ones(size, np.float32)
    best = {"gflops": 0.0, "gbytes": 0.0}
    for _ in range(repeats):
        start = time.process_time()
        a @ a
        best["gflops"] = max(best["gflops"], 2e-9 * side**3 / (time.process_time() - start))
        start = time.process_time()
        for _ in range(10):
            weights @ weights
        spent = (time.process_time() - start) / 10
        best["gbytes"] = max(best["gbytes"], 4e-9 * size / spent)
    return best


def bound_seconds(shape: Shape, machine: dict[str, float], kind: str, size: int) -> float:
    """Return the least seconds of a step on this machine: its products, or reading the weights.

    Weights are read once a step, as bfloat16: so the checkpoint has them and our kernels keep them.
    Attention is left out.
    """
    sizes = {name: int(np.prod(one)) for name, one in list_shapes(shape).items()}
    head = sizes["model.embed_tokens.weight"]
    layers = sum(sizes.values()) - head
    rows, heads = (size, size) if kind == "decode" else (size, 1)
    flops = 2 * (rows * layers + heads * head)
    return max(
        flops / machine["gflops"] / 1e9, BFLOAT16_BYTES * (layers + head) / machine["gbytes"] / 1e9
    )


def compare(contenders: dict[str, Measure], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield each contender's tokens a second in each kind of step."""
    for kind, size in (*(("decode", batch) for batch in BATCHES), ("prefill", PREFILL)):
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, measure in contenders.items():
                times[name].append(measure(kind, size))
        for name, each in times.items():
            yield {
                "step": f"{kind} {size}",
                "contender": name,
                "tokens_per_second": size / median(each),
                "ms": 1e3 * median(each),
                "spread": (max(each) - min(each)) / median(each),
            }


def measure_memory(model: Path, tokens: int) -> dict[str, Any]:
    """Generate tokens in a full engine that has to make sequences give way; return RSS in MB."""
    decoder = Decoder(load_checkpoint(model), kernels=load_kernels())
    limits = Limits(sequences=32, batched_tokens=512, waiting=64, cache_tokens=8192)
    metrics = Metrics("m")
    engine = Engine(decoder, limits, Pacer(None), metrics, lambda _: None)
    rng, seen, made = np.random.default_rng(3), [], 0
    count = metrics.output_tokens._value.get  # noqa: SLF001  # prometheus_client has no reader
    while made < tokens:
        while engine.load() < limits.sequences + 16:
            prompt = [int(one) for one in rng.integers(5, SMALL.vocabulary, 100)]
            params = SamplingParams(
                temperature=1, top_p=1, seed=len(seen), max_tokens=400, ignore_eos=True
            )
            engine.submit(prompt, params)
        engine.step()
        made = int(count())
        if made >= tokens * (len(seen) + 1) / 10:
            seen.append(read_memory())
    preempted = metrics.preemptions._value.get()  # noqa: SLF001
    return {"tokens": made, "preemptions": int(preempted), "megabytes": seen}


def read_memory() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start_peers(environment: Path, model: Path, names: list[str], threads: int) -> dict[str, Peer]:
    """Start what can be started, and say of the others that it cannot."""
    peers = {}
    for name in names:
        peer = Peer(environment, model, name, threads)
        try:
            version = peer.ask(kind="version")
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            peer.close()
            continue
        peers[f"{name}, {version}, {threads} threads"] = peer
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", type=Path, help="environment that peers.sh has made")
    parser.add_argument("--only", nargs="*", default=list(PEERS), help="peers to measure")
    parser.add_argument("--threads", type=int, default=1, help="of the peers; ours have one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--numerics", nargs="*", default=[FLOAT32.name], choices=list(NUMERICS))
    parser.add_argument("--numpy", action="store_true", help="measure the way without kernels, too")
    parser.add_argument("--memory", type=int, metavar="TOKENS", help="tell what so many leave")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.memory:
            told = measure_memory(write_model(Path(scratch) / "small", SMALL), given.memory)
            print(json.dumps(told))
            return
        model = write_model(Path(scratch) / "model", COMPACT)
        run_contest(given, model)


def run_contest(given: argparse.Namespace, model: Path) -> None:
    """Measure everybody and print a table."""
    checkpoint = load_checkpoint(model)
    ours = [Decoder(checkpoint, NUMERICS[name], kernels=load_kernels()) for name in given.numerics]
    contenders = {
        f"ours, {name}": time_ours(one) for name, one in zip(given.numerics, ours, strict=True)
    }
    if given.numpy:
        contenders["ours, NumPy"] = time_ours(Decoder(checkpoint))
    peers = start_peers(given.peers, model, given.only, given.threads) if given.peers else {}
    machine = find_roofline(COMPACT, 20)
    rows = []
    try:
        measures = contenders | {name: peer.measure for name, peer in peers.items()}
        base = next(iter(contenders))
        reference: dict[str, float] = {}
        for row in compare(measures, given.rounds):
            if row["contender"] == base:
                kind, size = row["step"].split()
                reference[row["step"]] = row["tokens_per_second"]
                bound = bound_seconds(COMPACT, machine, kind, int(size))
                row["of_roofline"] = 1e3 * bound / row["ms"]
            row["ours_over_it"] = reference[row["step"]] / row["tokens_per_second"]
            rows.append(row)
            share = f", {row['of_roofline']:.0%} of the roofline" if "of_roofline" in row else ""
            print(
                f"{row['step']:<12} {row['contender']:<44} {row['tokens_per_second']:>9,.0f}"
                f" tokens/s {row['ms']:>8.3f} ms  ours {row['ours_over_it']:.2f}×"
                f" (spread {row['spread']:.0%}{share})",
                flush=True,
            )
    finally:
        for peer in peers.values():
            peer.close()
    print(f"one core: {machine['gflops']:.0f} GFLOP/s, {machine['gbytes']:.1f} GB/s")
    print(f"context {CONTEXT}, prompt {PROMPT}, {STEPS} steps, kernels {load_kernels().level}")
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
