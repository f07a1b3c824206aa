"""Models that a format has no place for as they are: added biases are zeros, another activation is said."""

import pytest
import torch
from nano_model import Model, model_args, randomize

import zoo
from zoo.errors import CannotHold
from zoo.formats.registry import usable_formats
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(
    vocab_size=97, context_length=23, width=64, n_heads=1, n_layers=2, bias=False, qkv_bias=False, dropout=0.0
)
IDS = torch.randint(97, (2, 23), generator=torch.Generator().manual_seed(3))
BOTH_WAYS = [each.name for each in usable_formats() if each.reads and each.writes and each.name != "npz"]


@pytest.fixture
def source(tmp_path):
    """A model of nanoGPT's default training, which has no biases, and its logits with the tanh GELU."""
    peer = randomize(Model(**model_args(CONFIG))).double().eval()
    for block in peer.transformer["h"]:
        block.approximate = "tanh"
    torch.save(peer.float().state_dict(), tmp_path / "nano.pt")
    with torch.no_grad():
        logits = peer.double()(IDS)
    size = {"n_heads": 1, "activation": "gelu_tanh"}
    zoo.convert(tmp_path / "nano.pt", tmp_path / "model.safetensors", size=size)
    return tmp_path / "model.safetensors", logits


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_every_format_takes_a_model_without_biases(tmp_path, source, name):
    """Where a format has only models with biases they are zeros, counted in the report; the logits stay the same."""
    path, logits = source
    out = tmp_path / f"out{''.join(zoo.formats.registry.get_format(name).suffixes[:1])}"
    report = zoo.convert(path, out, to=name)
    model = zoo.load(out, format=name).double()
    if name == "nanogpt":  # computes the exact GELU, and says so
        return
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), logits, rtol=0, atol=1e-11)
    assert any("biases of exact zeros are added" in note for note in report.notes) is model.config.bias


@pytest.mark.peers
def test_transformers_computes_the_same_with_zero_biases(tmp_path, source):
    """transformers' own reading of a model that was trained without biases has the same logits and greedy tokens."""
    transformers = pytest.importorskip("transformers")
    path, logits = source
    zoo.convert(path, tmp_path / "hf", to="huggingface")
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").double().eval()
    with torch.no_grad():
        torch.testing.assert_close(peer(IDS).logits, logits, rtol=0, atol=1e-11)


def test_strict_adds_nothing(tmp_path, source):
    """With strict the conversion is refused, by what the format lacks."""
    with pytest.raises(CannotHold, match="it has no place for qkv_bias False"):
        zoo.convert(source[0], tmp_path / "hf", to="huggingface", strict=True)
    assert not (tmp_path / "hf").exists()


def test_the_advice_for_another_activation_works(tmp_path):
    """An exact GELU in llm.c is refused with a way out, which keeps every weight and says how far logits differ."""
    model = zoo.create(CONFIG.replace(bias=True, qkv_bias=True, activation="gelu"), seed=5)
    zoo.save(model, tmp_path / "a.safetensors")
    with pytest.raises(CannotHold, match="no place for activation 'gelu'.*activation=NAME converts it all the same"):
        zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.bin", to="llm.c")
    report = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.bin", to="llm.c", activation="gelu_tanh")
    again = zoo.load(tmp_path / "b.bin")

    assert again.config.activation == "gelu_tanh"
    assert not report.lossless
    assert any("changed from gelu to gelu_tanh" in note and "logits" in note for note in report.notes)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in again.state_dict().items())
