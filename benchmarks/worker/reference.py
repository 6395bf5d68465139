"""Writes reference.npz beside a checkpoint: what Hugging Face transformers makes of its prompts.

    python3 -m venv --system-site-packages .venv-reference
    .venv-reference/bin/pip install transformers==4.44.2 'numpy<2' 'jinja2>=3.1'
    PYTHONPATH=workers .venv-reference/bin/python benchmarks/worker/reference.py \
        workers/models/compact

The environment is its own, as torch and transformers are no dependencies of the project. Debian's
python3-torch (1.13, CPU) is what this form of it expects; without it, have pip install torch, which
brings libraries for GPUs, or its CPU build from PyTorch's own index.

The file has, for prompts of the checkpoint's heldout.jsonl in all lengths, the tokens of the chat
template and the logits after the last, float32. A test holds the worker to both. Write it again
when config, weights or tokenizer change.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sluice_worker.knownanswers import compute_digest

PROMPTS = 16
FILE = "reference.npz"


def choose_prompts(checkpoint: Path, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """Return prompts and their tokens, from the shortest to the longest."""
    asked = []
    for line in (checkpoint / "heldout.jsonl").read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        messages = [{"role": "user", "content": prompt}]
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        asked.append((prompt, list(tokens)))
    asked.sort(key=lambda one: (len(one[1]), one[0]))
    lengths = np.linspace(len(asked[0][1]), len(asked[-1][1]), PROMPTS)
    places = [min(range(len(asked)), key=lambda n: abs(len(asked[n][1]) - w)) for w in lengths]
    return [asked[place] for place in sorted(set(places))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    prompts = choose_prompts(checkpoint, tokenizer)
    arrays = {}
    with torch.no_grad():
        for number, (_, tokens) in enumerate(prompts):
            logits = model(torch.tensor([tokens])).logits[0, -1]
            arrays[f"tokens{number}"] = np.array(tokens, np.int32)
            arrays[f"logits{number}"] = logits.numpy().astype(np.float32)
    arrays["prompts"] = np.array([prompt for prompt, _ in prompts])
    arrays["digest"] = np.array(compute_digest(checkpoint))
    np.savez_compressed(checkpoint / FILE, **arrays)
    lengths = f"{len(prompts[0][1])} to {len(prompts[-1][1])}"
    print(f"{checkpoint / FILE} has {len(prompts)} prompts of {lengths} tokens.")


if __name__ == "__main__":
    main()
