"""The decode engine against the torch model: every instruction set, precision, number of threads and way to feed it."""

import copy

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, small_model

import zoo
from zoo.containers.quantized import Quantized, dequantize, quantize
from zoo.engine import Engine, is_built
from zoo.engine.kv_cache import EngineCache
from zoo.engine.native import library
from zoo.errors import OptionError, ZooError
from zoo.hub.resolve import find_checkpoint
from zoo.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")

WIDE = zoo.GPTConfig(
    vocab_size=157, vocab_rows=163, context_length=67, width=141, n_heads=3, n_layers=2, inner_width=71, tied=False
)  # fmt: skip
CONFIGS = {
    "tied": SMALL,
    "untied, padded, odd": WIDE,
    "without biases, exact gelu": SMALL.replace(bias=False, qkv_bias=False, activation="gelu"),
}


@pytest.fixture(params=["avx512bf16", "avx512", "avxvnni", "avx2", "dotprod", "generic"])
def isa(request, monkeypatch):
    """Each instruction set that this machine has."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", request.param)
    try:
        engine_of(small_model(dtype=torch.float32))
    except OptionError:
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def weights_of(model):
    state = model.state_dict()
    return {name: state[name].numpy() for name in model.config.parameter_shapes()}


def engine_of(model, threads=1):
    return Engine(model.config, weights_of(model), threads=threads)


def with_weights(model, change):
    """An engine whose weights are changed, and the torch model that has the same values in float32."""
    changed = {name: change(name, weight) for name, weight in weights_of(model).items()}
    twin = zoo.GPTModel(model.config).eval()
    plain = {n: dequantize(w) if isinstance(w, Quantized) else w.astype(np.float32) for n, w in changed.items()}
    twin.load_state_dict({name: torch.tensor(weight) for name, weight in plain.items()})
    return Engine(model.config, changed, threads=1), twin


def smaller(kind, name, weight):
    """A weight in fewer bits."""
    if kind in ("int8", "int4"):
        return quantize(weight, kind) if weight.ndim == 2 and name != "pos_emb.weight" else weight
    return weight.astype(np.float16 if kind == "float16" else ml_dtypes.bfloat16)


def expected_logits(model, ids, dtype=torch.float64):
    with torch.inference_mode():
        return copy.deepcopy(model).to(dtype)(torch.tensor(ids)[None])[0, :, : model.config.vocab_size].double().numpy()


def full_cache():
    """Of float32, whatever the weights are."""
    return EngineCache(WIDE, 1, WIDE.context_length)


def some_ids(config, n, seed=5):
    return np.random.default_rng(seed).integers(0, config.vocab_size, n)


def assert_close(model, ids, actual):
    """As near to the float64 logits as 1e-5 of the largest, or as near as torch's float32 where weights are wild."""
    expected = expected_logits(model, ids)[-len(actual) :]
    torch_error = np.abs(expected_logits(model, ids, torch.float32)[-len(actual) :] - expected).max()
    assert np.abs(expected - actual).max() <= max(1e-5 * np.abs(expected).max(), 2 * torch_error)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_the_torch_model(isa, config):
    """A prompt, then single steps to the end of the context: float32 logits agree to 1e-5 of the largest."""
    model = small_model(config, dtype=torch.float32)
    engine, ids = engine_of(model), some_ids(config, config.context_length)
    cache = engine.new_cache()

    first = engine.verify(ids[:9], cache)
    steps = [engine.step([i], cache)[0] for i in ids[9:]]

    assert_close(model, ids, np.stack([*first, *steps]))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int8", "int4"])
def test_only_the_rounding_of_weights_costs_quality(isa, kind):
    """The logits are those of float32 weights with the rounded values, with quantised ones to 16-bit activations."""
    engine, twin = with_weights(small_model(WIDE, dtype=torch.float32), lambda *weight: smaller(kind, *weight))
    ids = some_ids(WIDE, 31)
    cache = full_cache()

    first = engine.verify(ids[:13], cache)
    steps = [engine.step([i], cache)[0] for i in ids[13:]]

    found = np.stack([*first, *steps])
    if kind in ("int8", "int4"):
        expected = expected_logits(twin, ids)
        error, rounded = (
            np.abs(expected - other).mean() for other in (found, expected_logits(twin, ids, torch.bfloat16))
        )
        assert 0 < error < rounded / 50
    else:
        assert_close(twin, ids, found)
    assert (found == engine.verify(ids, full_cache())).all()


def test_prompts_are_as_near_as_torchs_bfloat16(isa):
    """Rounded activations cost no more than in torch's model of bfloat16, and nothing where the processor has none."""
    model = small_model(WIDE, dtype=torch.float32)
    engine, twin = with_weights(model, lambda *weight: smaller("bfloat16", *weight))
    ids = some_ids(WIDE, 61)
    exact = expected_logits(twin, ids)[-1]

    error = np.abs(exact - engine.prefill(ids, full_cache())).mean()

    assert error < np.abs(exact - expected_logits(twin, ids, torch.bfloat16)[-1]).mean()
    assert (error > 1e-4 * np.abs(exact).mean()) == (isa == "avx512bf16")


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int8", "int4"])
def test_a_cache_of_float16_costs_little(isa, kind):
    """Weights of 16 bits and fewer go with it: half the bytes, less than a quarter of bfloat16's error."""
    engine, twin = with_weights(small_model(WIDE, dtype=torch.float32), lambda *weight: smaller(kind, *weight))
    ids, cache, full = some_ids(WIDE, 31), engine.new_cache(), full_cache()
    logits, exact = engine.verify(ids, cache), engine.verify(ids, full)
    rounded = expected_logits(twin, ids, torch.bfloat16)

    assert 2 * cache.keys.nbytes == full.keys.nbytes
    assert 0 < np.abs(logits - exact).mean() < np.abs(rounded - exact).mean() / 4
    cache.truncate(7)
    assert (engine.verify(ids[7:], cache) == logits[7:]).all()


def test_a_cache_of_float16_is_rounded_as_numpy_rounds(isa):
    """From subnormal numbers to such as are too large, which become the largest; NaN stays NaN."""
    model = small_model(WIDE, dtype=torch.float32)
    with torch.no_grad():
        qkv = model.blocks[0].attn.qkv
        qkv.weight[WIDE.width :] *= torch.logspace(-8, 5, 2 * WIDE.width)[:, None]
        qkv.bias[WIDE.width :] *= torch.logspace(-8, 5, 2 * WIDE.width)
        qkv.bias[-1] = torch.nan
    engine, ids, full = engine_of(model), some_ids(WIDE, 31), full_cache()
    half = EngineCache(WIDE, 1, WIDE.context_length, np.float16)
    engine.verify(ids, full)
    engine.verify(ids, half)

    for exact, rounded in ((full.keys[0], half.keys[0]), (full.values[0], half.values[0])):
        expected = exact.clip(-65504, 65504).astype(np.float16)
        assert (expected.view(np.uint16) == rounded.view(np.uint16))[~np.isnan(expected)].all()
        assert (np.isnan(expected) == np.isnan(rounded)).all()
    assert (np.abs(half.keys[0][half.keys[0] != 0]) < 6e-5).sum() > 50
    assert 65504 == np.nanmax(half.values[0]) and np.isnan(half.values[0]).sum() == 31


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_prompts_change_no_bit_of_each_other(isa, kind):
    """Alone, or several in one pass, in any row, with any number of threads."""
    model = small_model(WIDE, dtype=torch.float32)
    weights = {name: smaller(kind, name, weight) for name, weight in weights_of(model).items()}
    alone, three = (Engine(WIDE, weights, threads=threads) for threads in (1, 3))
    prompts, rows, cache = [some_ids(WIDE, n, seed=n).tolist() for n in (1, 54, 41)], [3, 0, 1], three.new_cache(4)
    expected = [alone.prefill(prompt, alone.new_cache()) for prompt in prompts]

    assert (np.stack(expected) == np.concatenate(three.logits(prompts, cache, rows, [1, 1, 1]))).all()


def test_threads_and_batches_change_no_bit(isa):
    """One thread, three, a prompt at once, token by token, or beside other rows of other lengths: the same bits."""
    model = small_model(WIDE, dtype=torch.float32)
    ids = some_ids(WIDE, 40)
    alone = engine_of(model)
    expected = alone.verify(ids, alone.new_cache())
    engine = engine_of(model, threads=3)
    cache = engine.new_cache(3)
    for row, length in enumerate((5, 1, 17)):
        assert (engine.prefill(ids[:length], cache, row) == expected[length - 1]).all()

    for step in range(20):
        which = [5 + step, 1 + step, 17 + step]
        assert (engine.step(ids[which], cache) == expected[which]).all()
    assert [25, 21, 37] == cache.lengths.tolist()


def test_a_cache_can_be_cut_and_go_on():
    """Tokens that were rejected leave no trace."""
    model = small_model(dtype=torch.float32)
    engine, ids = engine_of(model), some_ids(SMALL, 20)
    cache = engine.new_cache()
    engine.verify(some_ids(SMALL, 22, seed=6), cache)
    cache.truncate(0)
    engine.verify(ids[:11], cache)
    cache.truncate(7)

    assert (engine.verify(ids[7:], cache) == engine.verify(ids, engine.new_cache())[7:]).all()


def test_a_long_prompt_is_read_in_parts():
    """More tokens than one pass takes give the logits of the torch model."""
    config = SMALL.replace(context_length=701)
    model = small_model(config, dtype=torch.float32)
    engine, ids = engine_of(model, threads=2), some_ids(config, 700)

    assert_close(model, ids, engine.prefill(ids, engine.new_cache())[None])


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda e: e.step([97], e.new_cache()), "token ids are 0 to 96"),
        (lambda e: e.step([-1], e.new_cache()), "token ids are 0 to 96"),
        (lambda e: e.prefill([], e.new_cache()), "no tokens"),
        (lambda e: e.verify([], e.new_cache()), "no tokens"),
        (lambda e: e.step([2**32 + 5], e.new_cache()), "token ids are 0 to 96"),
        (lambda e: e.step([5.0], e.new_cache()), "must be integers, not float64"),
        (lambda e: e.prefill([True, False], e.new_cache()), "must be integers, not bool"),
        (lambda e: e.verify([2**70], e.new_cache()), "must be integers, not object"),
        (lambda e: e.prefill(range(24), e.new_cache()), "24 tokens do not fit"),
        (lambda e: e.prefill([1], e.new_cache(), row=1), "rows 0 to 0"),
        (lambda e: e.step([1, 2], e.new_cache(3)), "2 tokens, 3 rows"),
        (lambda e: e.step([1, 2], e.new_cache(3), rows=[1, 1]), "one token for each row"),
        (lambda e: e.step([1], e.new_cache(3), rows=[3]), "rows 0 to 2"),
        (lambda e: e.logits([[1], [2]], e.new_cache(3), [1, 1], [1, 1]), "a row of its own"),
        (lambda e: e.logits([[1], [2]], e.new_cache(3), [1], [1, 1]), "2 lists, rows"),
        (lambda e: e.new_cache(room=24), "1 to 23 tokens"),
        (lambda e: e.new_cache().truncate(1), "cannot be cut to 1"),
        (lambda e: e.step([1], engine_of(small_model(WIDE, dtype=torch.float32)).new_cache()), "another model"),
        (lambda e: Engine(SMALL, {}, threads=1), "tok_emb.weight must have the shape"),
        (lambda e: Engine(SMALL, weights_of(small_model(dtype=torch.float32)), threads=0), "threads must be"),
    ],
)
def test_what_would_read_elsewhere_is_refused(call, problem):
    """The C side checks nothing, so everything that would lead it out of its arrays is an OptionError before."""
    with pytest.raises(OptionError, match=problem):
        call(engine_of(small_model(dtype=torch.float32)))


@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 300),
    kind=st.sampled_from(["int8", "int4"]),
    seed=st.integers(0, 9),
    size=st.sampled_from([0, 1e-30, 1, 1e6]),
)
def test_quantised_values_are_near(rows, columns, kind, seed, size):
    """No value is further off than one step of its scale, which is the largest magnitude over 127 or 7."""
    weight = (np.random.default_rng(seed).normal(size=(rows, columns)) * size).astype(np.float32)
    error = np.abs(dequantize(quantize(weight, kind)) - weight)

    assert error.shape == weight.shape
    assert error.max() <= np.abs(weight).max() / (127 if kind == "int8" else 7) * 1.01 + 1e-37


def test_a_file_is_opened_in_every_precision(tmp_path):
    """Engine.open reads a zoo file; quantising moves the logits less with eight bits than with four."""
    model = small_model(WIDE, dtype=torch.float32)
    zoo.save(model, tmp_path / "a.safetensors")
    ids = some_ids(WIDE, 30)
    expected = expected_logits(model, ids)[-1]
    error = {}
    for kind in ({}, {"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantize": "int8"}, {"quantize": "int4"}):
        engine = Engine.open(tmp_path / "a.safetensors", threads=1, **kind)
        found = engine.prefill(ids, engine.new_cache())
        error[next(iter(kind.values()), "float32")] = np.abs(found - expected).max() / np.abs(expected).max()

    assert error["float32"] < 1e-5 < error["float16"] < error["bfloat16"] < 0.1
    assert error["int8"] < error["int4"] < 1


def test_without_the_library_it_says_what_to_do(monkeypatch):
    """An installation without a compiler has no engine, and says so."""
    monkeypatch.setenv("ZOO_ENGINE", "off")
    library.cache_clear()
    with pytest.raises(ZooError, match="--engine torch"):
        engine_of(small_model(dtype=torch.float32))
    with pytest.raises(ZooError, match="--engine torch"):  # before seconds go into reading and quantising
        Engine.open("there is no such file", quantize="int4")
    monkeypatch.undo()
    library.cache_clear()


STORY = """\
Once upon a time there was a little girl who lived with her grandmother in a small house at the edge of the forest.
One morning the grandmother said, "We have no bread left. Take this basket, go to the mill and ask for a sack of
flour." So the girl took the basket and went along the path between the tall trees. After a while she met an old man
who sat on a stone. "Where are you going, my child?" he asked. "To the mill," said the girl, "for we have nothing to
eat." The old man gave her a silver whistle, and told her to blow it if ever she lost her way. She thanked him and ran
on, until she came to the river."""


def test_quantising_costs_a_trained_model_little():
    """Of the packaged model on a story it never saw: hundredths of a nat with four bits, next to nothing with eight."""
    loss = {}
    for kind in (None, "int8", "int4"):
        engine = Engine.open(find_checkpoint("stories"), quantize=kind, threads=1)
        ids = Tokenizer().encode(STORY)
        logits = engine.verify(ids, engine.new_cache())[:-1].astype(np.float64)
        loss[kind] = np.mean(
            [np.logaddexp.reduce(row) - row[token] for row, token in zip(logits, ids[1:], strict=True)]
        )

    assert 3 < loss[None] < 4.5
    assert abs(loss["int8"] - loss[None]) < 0.01
    assert abs(loss["int4"] - loss[None]) < 0.05
