"""Prompts with 8-bit activations: an option that changes nothing where the processor lacks the instructions."""

import numpy as np
import pytest
import torch
from small import small_model

import zoo
from zoo.containers.quantized import quantize
from zoo.engine import Engine, is_built
from zoo.errors import OptionError

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")

CONFIG = zoo.GPTConfig(vocab_size=157, context_length=67, width=141, n_heads=3, n_layers=2, inner_width=71)
IDS = np.random.default_rng(3).integers(0, 157, 61)
HAVE_BYTES = {"avxvnni", "avx512bf16", "dotprod"}


@pytest.fixture(params=["avx512bf16", "avx512", "avxvnni", "avx2", "dotprod", "generic"])
def isa(request, monkeypatch):
    """Each instruction set that this machine has."""
    monkeypatch.setenv("ZOO_ENGINE_ISA", request.param)
    try:
        engine_of("int8")
    except OptionError:
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def engine_of(kind, **options):
    state = small_model(CONFIG, dtype=torch.float32).state_dict()
    weights = {name: state[name].numpy() for name in CONFIG.parameter_shapes()}
    if kind != "float32":
        weights = {
            name: quantize(weight, kind) if weight.ndim == 2 and name != "pos_emb.weight" else weight
            for name, weight in weights.items()
        }
    return Engine(CONFIG, weights, threads=1, **options)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_prompts_are_rounded_where_the_processor_can(isa, kind):
    """Logits after 61 tokens differ by 0.05 to 10 percent of their mean magnitude, or not at all."""
    plain, rounded = engine_of(kind), engine_of(kind, int8_prefill=True)
    exact, found = (engine.prefill(IDS, engine.new_cache()) for engine in (plain, rounded))

    assert rounded.int8_prefill == (isa in HAVE_BYTES) and not plain.int8_prefill
    least, most = (0.0005, 0.1) if rounded.int8_prefill else (0, 0)
    assert least <= np.abs(exact - found).mean() / np.abs(exact).mean() <= most


def test_decoding_is_not_rounded(isa):
    """Short prompts, single steps and several logits at once have 16-bit activations, with the option too."""
    plain, rounded = engine_of("int8"), engine_of("int8", int8_prefill=True)
    first, second = plain.new_cache(), rounded.new_cache()

    assert (plain.prefill(IDS[:32], first) == rounded.prefill(IDS[:32], second)).all()
    assert (plain.step(IDS[32:33], first) == rounded.step(IDS[32:33], second)).all()
    assert (plain.verify(IDS[33:], first) == rounded.verify(IDS[33:], second)).all()


def test_other_weights_are_refused():
    """float32 weights have no such products; the message names the option that is missing."""
    with pytest.raises(OptionError, match=r"add quantize='int8'"):
        engine_of("float32", int8_prefill=True)
