"""Kernels for other instructions than this processor's best: the same bits."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import subprocess
import sys

import numpy as np
import pytest

from sluice_worker import kernelload
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.kernelload import DIGEST, list_levels, load_kernels, name_object
from sluice_worker.numerics import NUMERICS

from ..unit.worker.checkpoints import write_checkpoint


@pytest.mark.full
@pytest.mark.skipif(len(list_levels()) < 2, reason="this processor has one level only")
def test_levels_of_instructions_do_not_differ_in_a_bit(tmp_path):
    lower = list_levels()[1]
    command = [sys.executable, "-m", "sluice_worker.kernelbuild", "--level", lower]
    subprocess.run(command, check=True)
    path = name_object(lower)
    others = kernelload._link(lower, path.read_bytes()[DIGEST:], path)
    model = load_checkpoint(write_checkpoint(tmp_path, num_attention_heads=10, head_dim=20))
    tokens = [int(one) for one in np.random.default_rng(4).integers(0, 100, 100)]
    for name, numerics in NUMERICS.items():
        rows = [
            Decoder(model, numerics, kernels=kernels)
            .run_all(Chunk(tokens, 0, KeyValueCache(model.config, 100)))
            .tobytes()
            for kernels in (load_kernels(), others)
        ]
        assert rows[0] == rows[1], name
