"""Layout tests only: no Megatron is at hand to load what zoo writes."""

import argparse

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from small import small_model
from strategies import configs

import zoo
from zoo import make_plan
from zoo.errors import CannotHold, FormatError
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, inner_width=70)
HELD = {"vocab_rows": 0, "bias": True, "qkv_bias": True, "activation": "gelu_tanh", "norm_eps": 1e-5}


@pytest.fixture
def model():
    return small_model(CONFIG, dtype=torch.float32)


@pytest.fixture
def path(tmp_path, model):
    zoo.save(model, tmp_path / "model.pt", to="megatron")
    return tmp_path / "model.pt"


def test_query_key_and_value_lie_head_by_head(path, model):
    """Rows 3 D h to 3 D h + D of linear_qkv are head h's query, then come its key and its value."""
    layer = torch.load(path, weights_only=True)["model"]["decoder.layers.1.self_attention.linear_qkv.weight"]
    query, key, value = model.blocks[1].attn.qkv.weight.detach().chunk(3)

    for head in range(5):
        ours = [part[6 * head : 6 * head + 6] for part in (query, key, value)]
        assert torch.equal(torch.cat(ours), layer[18 * head : 18 * head + 18])


def test_names_and_shapes_are_those_of_megatron_core(path, model):
    """The names are schema_core.py's for Transformer Engine; matrices are (out, in)."""
    state = torch.load(path, weights_only=True)["model"]
    layer = {
        name.removeprefix("decoder.layers.2."): tuple(t.shape) for name, t in state.items() if ".layers.2." in name
    }

    assert layer == {
        "self_attention.linear_qkv.layer_norm_weight": (30,),
        "self_attention.linear_qkv.layer_norm_bias": (30,),
        "self_attention.linear_qkv.weight": (90, 30),
        "self_attention.linear_qkv.bias": (90,),
        "self_attention.linear_proj.weight": (30, 30),
        "self_attention.linear_proj.bias": (30,),
        "mlp.linear_fc1.layer_norm_weight": (30,),
        "mlp.linear_fc1.layer_norm_bias": (30,),
        "mlp.linear_fc1.weight": (70, 30),
        "mlp.linear_fc1.bias": (70,),
        "mlp.linear_fc2.weight": (30, 70),
        "mlp.linear_fc2.bias": (30,),
    }
    assert {name for name in state if ".layers." not in name} == {
        "embedding.word_embeddings.weight",
        "embedding.position_embeddings.weight",
        "decoder.final_layernorm.weight",
        "decoder.final_layernorm.bias",
    }
    square = state["decoder.layers.2.self_attention.linear_proj.weight"].numpy()
    np.testing.assert_array_equal(square, model.blocks[2].attn.out.weight.detach().numpy())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(config=configs(**HELD))
def test_there_and_back_nothing_changes(tmp_path, config):
    """The way zoo -> megatron -> zoo keeps every bit and the whole config."""
    zoo.save(small_model(config, dtype=torch.float32), tmp_path / "a.safetensors", force=True)
    zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.pt", to="megatron", force=True)
    zoo.convert(tmp_path / "b.pt", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert config == a.config == c.config
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)


def test_a_file_of_megatron_takes_its_config_from_the_shapes(tmp_path, path, model):
    """Without zoo's record the sizes come from the shapes and the heads from the user; extra state stays behind."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model"]["decoder.layers.0.self_attention.linear_qkv._extra_state"] = None
    torch.save(checkpoint, tmp_path / "theirs.pt")
    _, found = open_path(tmp_path / "theirs.pt", size=CONFIG)

    assert detect_format(tmp_path / "theirs.pt").name == "megatron"
    assert found.config == CONFIG
    entry = "decoder.layers.0.self_attention.linear_qkv._extra_state"
    assert found.notes == (f"1 entries such as {entry} are not weights and are left out",)
    assert torch.equal(
        zoo.load(tmp_path / "theirs.pt", size=CONFIG).blocks[1].attn.qkv.bias, model.blocks[1].attn.qkv.bias
    )


def test_another_order_of_rows_is_refused(tmp_path, path):
    """Before version 3 linear_qkv had another order, which no shape tells."""
    torch.save(torch.load(path, weights_only=True) | {"checkpoint_version": 1.0}, tmp_path / "old.pt")

    with pytest.raises(FormatError, match=r"has the checkpoint_version 1\.0; zoo knows the order of 3\.0 only"):
        open_path(tmp_path / "old.pt", size=CONFIG)


def test_what_megatron_must_be_told_is_said(tmp_path, path):
    """Megatron-LM pads to 128 rows unless told otherwise; a model of GPT-2 without biases it cannot hold."""
    zoo.convert(path, tmp_path / "a.safetensors")
    assert make_plan(tmp_path / "a.safetensors", "megatron").notes == [
        "Megatron-LM wants --make-vocab-size-divisible-by 1 for 97 rows"
    ]
    zoo.save(small_model(CONFIG.replace(bias=False), dtype=torch.float32), tmp_path / "bare.safetensors")
    with pytest.raises(CannotHold, match="it has no place for bias False"):
        make_plan(tmp_path / "bare.safetensors", "megatron", strict=True)


@pytest.mark.parametrize("tree", [5, {"model": 3}, {"model": {}}, {"model": {"a": 5}}])
def test_what_is_no_checkpoint_of_megatron_is_refused(tmp_path, tree):
    """Whatever is in the file, the answer is a FormatError."""
    torch.save(tree, tmp_path / "odd.pt")

    with pytest.raises(FormatError):
        zoo.load(tmp_path / "odd.pt", format="megatron", size=CONFIG)


def old_checkpoint(model, version, body="transformer", attention="attention"):
    """What Megatron-LM saved before Megatron core; query, key and value lie in the order of the version."""
    heads, size = model.config.n_heads, model.config.head_size

    def ordered(rows):  # (3, H, D, ...) in ours
        parts = rows.reshape(3, heads, size, *rows.shape[1:])
        moved = {0: parts, 1: parts.movedim(0, 2), 2: parts.movedim(0, 1), 3: parts.movedim(0, 1)}[version]
        return moved.reshape(rows.shape).clone()

    layers = {}
    for i, block in enumerate(model.blocks):
        parts = {
            "input_layernorm": block.norm1,
            f"{attention}.dense": block.attn.out,
            "post_attention_layernorm": block.norm2,
            "mlp.dense_h_to_4h": block.mlp.up,
            "mlp.dense_4h_to_h": block.mlp.down,
        }
        for name, part in parts.items():
            layers |= {f"layers.{i}.{name}.{kind}": value for kind, value in part.state_dict().items()}
        for kind, value in block.attn.qkv.state_dict().items():
            layers[f"layers.{i}.{attention}.query_key_value.{kind}"] = ordered(value)
    layers |= {f"final_layernorm.{kind}": value for kind, value in model.final_norm.state_dict().items()}
    embedding = {
        "word_embeddings": {"weight": model.tok_emb.weight.detach()},
        "position_embeddings": {"weight": model.pos_emb.weight.detach()},
    }
    args = argparse.Namespace(num_layers=3, hidden_size=30, num_attention_heads=5, openai_gelu=True)
    tree = {"iteration": 7, "args": args, "model": {"language_model": {"embedding": embedding, body: layers}}}
    return tree | ({"checkpoint_version": float(version)} if version else {})


@pytest.mark.parametrize(
    ("version", "names"), [(0, {}), (1, {}), (2, {}), (3, {"body": "encoder", "attention": "self_attention"})]
)
def test_checkpoints_from_before_core_are_read_by_their_version(tmp_path, model, version, names):
    """The order of the rows of query_key_value is that of the version, and the heads and the activation are args'."""
    torch.save(old_checkpoint(model, version, **names), tmp_path / "model_optim_rng.pt")
    found = zoo.load(tmp_path / "model_optim_rng.pt")

    assert found.config == CONFIG
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), model.state_dict().values(), strict=True))


def test_an_unknown_version_and_missing_heads_are_refused(tmp_path, model):
    """Both would be guesses that no shape contradicts."""
    torch.save(old_checkpoint(model, 2) | {"checkpoint_version": 4.0}, tmp_path / "new.pt")
    torch.save({k: v for k, v in old_checkpoint(model, 2).items() if k != "args"}, tmp_path / "bare.pt")

    with pytest.raises(FormatError, match=r"checkpoint_version 4\.0; zoo knows the order of 0, 1, 2, 3"):
        zoo.load(tmp_path / "new.pt")
    with pytest.raises(FormatError, match="no args with the number of heads; say it with --size"):
        zoo.load(tmp_path / "bare.pt")
    assert zoo.load(tmp_path / "bare.pt", size=CONFIG).config == CONFIG
    part = old_checkpoint(model, 2)
    part["args"].tensor_model_parallel_size = 2
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(FormatError, match="one of 2 tensor-parallel parts of a model; merge them"):
        zoo.load(tmp_path / "part.pt")


def test_rows_beyond_gpt2s_tokens_are_padding(tmp_path, model):
    """Megatron-LM pads GPT-2's vocabulary; args that name its tokenizer tell how many rows are tokens."""
    tree = old_checkpoint(small_model(CONFIG.replace(vocab_size=50304), dtype=torch.float32), 3)
    tree["args"].tokenizer_type = "GPT2BPETokenizer"
    torch.save(tree, tmp_path / "padded.pt")
    config = open_path(tmp_path / "padded.pt")[1].config

    assert (config.vocab_size, config.vocab_rows) == (50257, 50304)
