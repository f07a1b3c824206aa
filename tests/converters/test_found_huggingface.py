"""Directories of transformers as people have them, compared with transformers' own logits."""

import json

import pytest
import torch

import zoo
from zoo.errors import FormatError
from zoo.formats.opening import open_path

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.peers

IDS = torch.randint(97, (2, 19), generator=torch.Generator().manual_seed(3))


def new_peer(**switches):
    """A GPT-2 of transformers with wild weights: 3 heads of 10, 4 layers."""
    sizes = {"n_embd": 30, "n_head": 3, "n_layer": 4, "n_positions": 23, "vocab_size": 97, "n_inner": 70}
    tokens = {"bos_token_id": 5, "eos_token_id": 6}
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **tokens, **switches))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return peer.eval()


def rewrite(directory, **keys):
    """Change keys of config.json; None removes one."""
    config = json.loads((directory / "config.json").read_text())
    config = {key: value for key, value in {**config, **keys}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))


def assert_same_logits(path, peer, *, rtol=1e-5, **options):
    """What zoo computes from a path is what transformers computes, also after a conversion."""
    with torch.no_grad():
        expected = peer.float()(IDS).logits
        found = zoo.load(path, dtype="float32", **options)(IDS)
    torch.testing.assert_close(found, expected, rtol=0, atol=rtol * float(expected.abs().max()))


def test_the_other_names_that_gpt2config_accepts_are_read(tmp_path):
    """hidden_size, num_attention_heads and so on mean n_embd, n_head: three heads, not the default twelve."""
    peer = new_peer()
    peer.save_pretrained(tmp_path)
    names = {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 4, "max_position_embeddings": 23}
    rewrite(tmp_path, n_embd=None, n_head=None, n_layer=None, n_positions=None, n_ctx=None, **names)

    assert_same_logits(tmp_path, peer)
    assert_same_logits(tmp_path, transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval())
    assert open_path(tmp_path)[1].notes == ()


def test_two_names_that_disagree_are_refused(tmp_path):
    """Which of two numbers of heads is right cannot be known; without the wrong one the model loads."""
    peer = new_peer()
    peer.save_pretrained(tmp_path)
    rewrite(tmp_path, num_attention_heads=5)
    with pytest.raises(FormatError, match="has n_head 3, num_attention_heads 5, which mean the same; remove the wrong"):
        open_path(tmp_path)
    rewrite(tmp_path, num_attention_heads=None)

    assert_same_logits(tmp_path, peer)


@pytest.mark.parametrize(
    "switches",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "reorder_and_upcast_attn": True},
        {"reorder_and_upcast_attn": True},
        {"activation_function": "gelu_fast"},
        {"activation_function": "gelu_python"},
    ],
)
def test_switches_are_computed(tmp_path, switches):
    """Mistral's scaling of scores is multiplied into the queries, and said; logits are those of transformers."""
    peer = new_peer(**switches)
    peer.save_pretrained(tmp_path / "hf")
    scaled = [key for key in switches if key.startswith("scale")]
    report = zoo.convert(tmp_path / "hf", tmp_path / "out", to="huggingface")

    assert_same_logits(tmp_path / "hf", peer)
    assert_same_logits(tmp_path / "out", peer)
    assert report.lossless is not bool(scaled)
    assert all(any(key in note for note in report.notes) for key in scaled)


@pytest.mark.parametrize(
    ("key", "value"),
    [("add_cross_attention", True), ("activation_function", "relu"), ("quantization_config", {"load_in_8bit": True})],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(tmp_path, key, value):
    """What zoo cannot compute is not ignored."""
    new_peer().save_pretrained(tmp_path)
    rewrite(tmp_path, **{key: value})
    with pytest.raises(FormatError, match=key):
        open_path(tmp_path)


def test_a_key_that_zoo_does_not_know_is_a_note(tmp_path):
    """Nobody knows whether it matters; all the keys that transformers writes are known."""
    new_peer().save_pretrained(tmp_path)
    assert open_path(tmp_path)[1].notes == ()
    rewrite(tmp_path, rotary_dim=64)

    assert open_path(tmp_path)[1].notes == ("config.json has keys that zoo does not know and leaves out: rotary_dim",)
