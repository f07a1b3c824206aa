"""Fresh weights: their distribution, their seed, and the book's random numbers."""

import math

import pytest
import torch
from torch import nn

from zoo.errors import OptionError, UnknownName
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.init import create

CONFIG = GPTConfig(vocab_size=211, context_length=31, width=120, n_heads=5, n_layers=3)


def test_gpt2_distribution():
    """Standard deviation 0.02, divided by sqrt(2 L) at the two ends of the residual stream; norms 1, biases 0."""
    for name, value in create(CONFIG).state_dict().items():
        residual = name.endswith(("attn.out.weight", "mlp.down.weight"))
        if name.endswith("bias"):
            assert (value == 0).all()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            expected = 0.02 / math.sqrt(6) if residual else 0.02
            # Five standard errors of a standard deviation of n values are 5 / sqrt(2 n).
            assert value.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * value.numel()))
            assert abs(value.mean().item()) < 5 * expected / math.sqrt(value.numel())


@pytest.mark.parametrize("init", ["gpt2", "book"])
def test_seed(init):
    """The same seed gives the same bits, another seed gives others, and torch's global generator is unchanged."""
    state = torch.random.get_rng_state()
    first, again, other = (create(CONFIG, seed=seed, init=init).state_dict() for seed in (5, 5, 6))

    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.1.attn.qkv.weight"], other["blocks.1.attn.qkv.weight"])


def test_by_name_dtype_and_mode():
    """A registered name works, the dtype is the requested one, and the model is in training mode."""
    model = create("test-tiny", dtype=torch.bfloat16)

    assert {torch.bfloat16} == {value.dtype for value in model.parameters()}
    assert torch.float32 == create(CONFIG).tok_emb.weight.dtype
    assert model.training


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_book_order(tied, qkv_bias):
    """The book's modules, made in its order after manual_seed, hold the same bits."""
    config = CONFIG.replace(tied=tied, qkv_bias=qkv_bias, n_layers=2)
    state = create(config, seed=123, init="book").state_dict()
    with torch.random.fork_rng():
        torch.manual_seed(123)
        tok_emb, pos_emb = nn.Embedding(211, 120), nn.Embedding(31, 120)
        blocks = []
        for _ in range(2):
            qkv = [nn.Linear(120, 120, bias=qkv_bias) for _ in range(3)]
            blocks.append((qkv, nn.Linear(120, 120), nn.Linear(120, 480), nn.Linear(480, 120)))
        head = nn.Linear(120, 211, bias=False)

    assert torch.equal(tok_emb.weight, state["tok_emb.weight"])
    assert torch.equal(pos_emb.weight, state["pos_emb.weight"])
    for i, (qkv, out, up, down) in enumerate(blocks):
        assert torch.equal(torch.cat([part.weight for part in qkv]), state[f"blocks.{i}.attn.qkv.weight"])
        if qkv_bias:
            assert torch.equal(torch.cat([part.bias for part in qkv]), state[f"blocks.{i}.attn.qkv.bias"])
        for name, linear in (("attn.out", out), ("mlp.up", up), ("mlp.down", down)):
            assert torch.equal(linear.weight, state[f"blocks.{i}.{name}.weight"])
            assert torch.equal(linear.bias, state[f"blocks.{i}.{name}.bias"])
    assert tied == ("head.weight" not in state)
    assert tied or torch.equal(head.weight, state["head.weight"])


def test_refusals():
    """An unknown init or model is an error that names the choices."""
    with pytest.raises(OptionError, match="init must be one of gpt2, book, not 'xavier'"):
        create(CONFIG, init="xavier")
    with pytest.raises(UnknownName, match="gpt2-small"):
        create("gpt2-smal")
