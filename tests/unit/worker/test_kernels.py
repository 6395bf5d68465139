"""The compiled kernels: the same rounding as NumPy's, the same bits in any company, and no surprise
where they are missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sluice_worker import kernelload
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.compiled import describe_format
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.formats import Microexponent
from sluice_worker.kernelload import KernelsError, load_kernels
from sluice_worker.loading import choose_kernels
from sluice_worker.numerics import NUMERICS

from .checkpoints import write_checkpoint

FORMATS = sorted({one.linear for one in NUMERICS.values()}, key=str)
ANY = st.one_of(
    st.floats(width=32),
    st.floats(-8, 8, width=32),
    st.floats(-(2.0**-100), 2.0**-100, width=32),
    st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 448.0, 1.75, 2.0**-126, 2.0**127]),
)


def round_by_kernels(form, x):
    rounded = np.ascontiguousarray(x.copy())
    kernels = load_kernels()
    kernels.round_rows(rounded.ctypes.data, *rounded.shape, *describe_format(form))
    return rounded


@pytest.mark.parametrize("form", FORMATS, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.sampled_from([1, 2, 7, 16, 31, 32, 33, 80]))
def test_kernels_round_as_numpy_does(form, data, width):
    x = data.draw(arrays(np.float32, (2, width), elements=ANY))
    with np.errstate(all="ignore"):
        wanted = form.round(x)
    found = round_by_kernels(form, x)
    sound = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(found), ~sound)
    assert found[sound].tobytes() == wanted[sound].tobytes()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_kernels_round_ordinary_rows_as_numpy_does(form):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 192)).astype(np.float32) * np.exp(rng.normal(size=(300, 1)) * 4)
    x = x.astype(np.float32)
    assert round_by_kernels(form, x).tobytes() == form.round(x).tobytes()


def test_a_format_that_the_kernels_do_not_know_is_named():
    with pytest.raises(ValueError, match=r"do not round to Microexponent.*block=8"):
        describe_format(Microexponent(4, block=8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.mark.parametrize("name", NUMERICS)
def test_kernels_and_numpy_agree_on_the_logits(checkpoint, name):
    tokens = list(np.random.default_rng(2).integers(0, 100, 90))
    rows = [
        decoder.run_all(Chunk(tokens, 0, KeyValueCache(checkpoint.config, 90)))
        for decoder in (
            Decoder(checkpoint, NUMERICS[name], kernels=load_kernels()),
            Decoder(checkpoint, NUMERICS[name]),
        )
    ]
    # Another order of sums now and then falls on the other side of a rounding edge.
    off = np.abs(rows[0] - rows[1]).max(-1) / np.abs(rows[1]).max(-1)
    assert np.median(off) < (1e-5 if name == "float32" else 0.1)
    assert (rows[0].argmax(-1) == rows[1].argmax(-1)).mean() > 0.85


def test_a_chunk_longer_than_the_buffers_goes_in_parts(tmp_path):
    model = load_checkpoint(write_checkpoint(tmp_path, max_position_embeddings=512))
    decoder = Decoder(model, kernels=load_kernels())
    tokens = list(np.random.default_rng(3).integers(0, 100, 300))
    whole = decoder.run_all(Chunk(tokens, 0, KeyValueCache(model.config, 300)))
    cache = KeyValueCache(model.config, 300)
    steps = [decoder.run([Chunk([one], n, cache)])[0] for n, one in enumerate(tokens)]
    assert np.stack(steps).tobytes() == whole.tobytes()


def test_logits_are_given_for_the_rows_that_are_asked_for(checkpoint):
    decoder = Decoder(checkpoint, kernels=load_kernels())
    first, second = [5, 6, 7], [8, 9]

    def chunk(tokens, every):
        return Chunk(tokens, 0, KeyValueCache(checkpoint.config, 32), every)

    every, last = decoder.run_asked([chunk(first, every=True), chunk(second, every=False)])
    assert every.tobytes() == decoder.run_all(chunk(first, every=False)).tobytes()
    assert last.tobytes() == decoder.run([chunk(second, every=False)]).tobytes()


@pytest.mark.parametrize(("start", "tokens"), [(0, 65), (60, 5), (0, 0)])
def test_no_kernel_writes_where_the_sequence_has_no_block(checkpoint, start, tokens):
    cache = KeyValueCache(checkpoint.config, 64)
    with pytest.raises(IndexError, match="are not in the cache"):
        Decoder(checkpoint, kernels=load_kernels()).run([Chunk([5] * tokens, start, cache)])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Kernels are looked for in an empty directory."""
    monkeypatch.setattr(kernelload, "DIRECTORY", tmp_path)
    load_kernels.cache_clear()
    yield tmp_path
    load_kernels.cache_clear()


def test_a_worker_without_kernels_says_so_and_computes_with_numpy(elsewhere, checkpoint, capsys):
    with pytest.raises(KernelsError, match=r"there is no .*: 'python -m .*kernelbuild' makes it"):
        load_kernels()
    assert choose_kernels() is None
    assert "no compiled kernels" in capsys.readouterr().out
    cache = KeyValueCache(checkpoint.config, 32)
    assert np.isfinite(Decoder(checkpoint, kernels=None).run([Chunk([5], 0, cache)])).all()


@pytest.mark.parametrize("content", [b"", b"short", bytes(5000)])
def test_damaged_kernels_are_refused_with_their_name(elsewhere, content):
    path = kernelload.name_object(kernelload.list_levels()[0])
    path.write_bytes(content)
    with pytest.raises(KernelsError, match=f"{path.name} is damaged"):
        load_kernels()


def test_kernels_of_a_lower_level_do_where_the_best_are_missing(elsewhere, monkeypatch):
    monkeypatch.setattr(kernelload, "list_levels", lambda: ["x86-64-v4", "x86-64-v3"])
    with pytest.raises(KernelsError, match="x86-64-v4"):
        load_kernels()
    kernelload.name_object("x86-64-v3").write_bytes(b"")
    with pytest.raises(KernelsError, match=r"x86-64-v3.*damaged"):
        load_kernels()


def test_a_processor_without_fused_multiply_add_is_told(elsewhere, monkeypatch):
    monkeypatch.setattr(kernelload, "list_levels", list)
    with pytest.raises(KernelsError, match="has no fused multiply-add"):
        load_kernels()
