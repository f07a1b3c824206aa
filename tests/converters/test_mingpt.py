import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from nano_model import Model, model_args, randomize
from small import random_ids, small_model
from strategies import configs

import zoo
from zoo import make_plan
from zoo.errors import CannotHold, CheckpointMismatch, ConfigError, FormatError
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, tied=False)
WIDE = GPTConfig(vocab_size=97, context_length=23, width=128, n_heads=2, n_layers=1, tied=False)
HELD = {"bias": True, "qkv_bias": True, "activation": "gelu_tanh", "inner_width": 0, "norm_eps": 1e-5}


def new_peer(config, seed=4):
    """MinGPT's model."""
    args = {**model_args(config), "bias": True}
    return randomize(Model(**args, minimal=True), seed)


@pytest.fixture
def path(tmp_path):
    """A state dict as minGPT's projects save it."""
    torch.save(new_peer(CONFIG).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"vocab_rows": 101}])
def test_mingpt_loads_what_zoo_writes(tmp_path, changes):
    """The state dict loads strictly, with masks and head, and gives the same logits."""
    config = CONFIG.replace(**changes)
    model = small_model(config)
    zoo.save(model.float(), tmp_path / "model.pt", to="mingpt")
    peer = new_peer(config)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    peer.load_state_dict(state, strict=True)
    ids = random_ids(2, 23)

    assert torch.equal(torch.ones(23, 23).tril()[None, None], state["transformer.h.2.attn.bias"])
    with torch.no_grad():
        torch.testing.assert_close(peer.double()(ids), model.double()(ids), rtol=0, atol=1e-11)


@pytest.mark.parametrize("tied", [True, False])
def test_zoo_loads_what_mingpt_saves(tmp_path, tied):
    """The sizes come from the shapes, the heads from the user; a head that equals the embedding is tied."""
    config = CONFIG.replace(tied=tied)
    peer = new_peer(config)
    if tied:
        peer.lm_head.load_state_dict(peer.transformer["wte"].state_dict())
    torch.save(peer.state_dict(), tmp_path / "model.pt")
    model = zoo.load(tmp_path / "model.pt", size=config)
    ids = random_ids(2, 23)

    assert config == model.config
    with torch.no_grad():
        torch.testing.assert_close(model.double()(ids), peer.double()(ids), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("config", "beside"),
    [
        (CONFIG, {"model_type": None, "n_layer": 3, "n_head": 5, "n_embd": 30}),
        (CONFIG.replace(width=128, n_heads=4, n_layers=4), {"model_type": "gpt-micro", "n_layer": None}),
    ],
)
def test_the_heads_are_those_of_mingpts_own_config(tmp_path, config, beside):
    """The config.json that minGPT's projects write beside the model gives the heads, and with them its logits."""
    peer = new_peer(config).eval()
    torch.save(peer.state_dict(), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps({"system": {"seed": 3407}, "model": beside}))
    model = zoo.load(tmp_path / "model.pt")
    ids = random_ids(2, 23)

    assert model.config.n_heads == config.n_heads
    with torch.no_grad():
        torch.testing.assert_close(model.double()(ids), peer.double()(ids), rtol=0, atol=1e-11)


def test_heads_that_nothing_tells_are_asked_for(tmp_path, path):
    """The number of heads is never guessed from the width, nor taken from the config of another model."""
    torch.save(new_peer(WIDE).state_dict(), tmp_path / "wide.pt")
    (tmp_path / "config.json").write_text('{"model": {"model_type": "gpt-nano"}}')
    for file, config in ((tmp_path / "wide.pt", WIDE), (path, CONFIG)):
        with pytest.raises(FormatError, match=r"does not say how many attention heads .* --size"):
            open_path(file)
        assert open_path(file, size={"n_heads": config.n_heads})[1].config == config


def test_a_size_that_contradicts_is_one_line(path):
    """A wrong size is answered with the sizes of both; any field that is given must agree."""
    with pytest.raises(ConfigError, match="width 30 .not 768., .*n_layers 3 .not 12.") as refusal:
        open_path(path, size="124M")
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="it has activation gelu_tanh .not gelu"):
        open_path(path, size={"n_heads": 5, "activation": "gelu"})


def test_what_the_user_says_must_agree_with_the_shapes(path):
    """A size that the file does not have is refused; padding is believed where there are enough rows."""
    with pytest.raises(ConfigError, match="it has context_length 23 .not 24"):
        open_path(path, size=CONFIG.replace(context_length=24))
    with pytest.raises(ConfigError, match="it has vocab_size 97 .not 98"):
        open_path(path, size=CONFIG.replace(vocab_size=98))
    padded = CONFIG.replace(vocab_size=91, vocab_rows=97)
    assert open_path(path, size=padded)[1].config == padded


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(config=configs(**HELD))
@example(config=CONFIG.replace(tied=True, vocab_rows=101, dropout=0.3))
def test_there_and_back_nothing_changes(tmp_path, config):
    """The way zoo -> mingpt -> zoo keeps every bit and the whole config, heads and padding too."""
    zoo.save(small_model(config, dtype=torch.float32), tmp_path / "a.safetensors", force=True)
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.pt", to="mingpt", force=True)
    back = zoo.convert(tmp_path / "b.pt", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert there.verified
    assert config == a.config == c.config
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)
    assert [*there.notes, *back.notes] == []
    assert c.provenance["source_provenance"] == there.provenance


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": False}, "bias False"),
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"inner_width": 70}, "inner_width 70"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-06"),
        ({"activation": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_mingpt_has_not_is_refused(tmp_path, change, reason):
    """MinGPT's model has biases, an inner width of 4 C and the approximated GELU, whatever it is told."""
    zoo.save(small_model(CONFIG.replace(**change), dtype=torch.float32), tmp_path / "a.safetensors")

    with pytest.raises(CannotHold, match=f"it has no place for {reason}"):
        make_plan(tmp_path / "a.safetensors", "mingpt", strict=True)


def test_a_hugging_face_state_dict_is_recognised_as_such(tmp_path, path):
    """The names are the same there, but c_attn is (C, 3C): orientation tells, and so do masks."""
    state = torch.load(path, weights_only=True)
    assert detect_format(path).name == "mingpt"

    state["transformer.h.0.attn.c_attn.weight"] = state["transformer.h.0.attn.c_attn.weight"].T.contiguous()
    torch.save(state, tmp_path / "hf.bin")
    assert detect_format(tmp_path / "hf.bin").name == "huggingface"


def test_a_wrong_mask_is_refused(tmp_path, path):
    """A mask that lets a token look ahead is not dropped as if it were the causal one."""
    state = torch.load(path, weights_only=True)
    state["transformer.h.1.attn.bias"][0, 0, 3, 4] = 1
    torch.save(state, path)

    with pytest.raises(CheckpointMismatch, match=r"transformer.h.1.attn.bias is not a buffer"):
        zoo.load(path, size=CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.wte.weight": None, "lm_head.weight": None},
            "has no embeddings of tokens and positions that tell its sizes",
        ),
        ({"transformer.wte.weight": torch.ones(3)}, "has no embeddings of tokens and positions that tell its sizes"),
        (
            {"transformer.wpe.weight": torch.tensor(3.0)},
            "has no embeddings of tokens and positions that tell its sizes",
        ),
        ({"transformer.wpe.weight": torch.ones(0, 30)}, "it has context_length 0 .not 23"),
        ({"transformer.h.1.ln_1.weight": None}, "n_layers 1 .not 3"),
        ({"transformer.h.1.ln_1.bias": None}, r"tensor transformer.h.1.ln_1.bias \(30,\) is missing"),
        ({"transformer.h.1.mlp.c_fc.weight": torch.ones(30, 120)}, "where the config asks for .120, 30."),
        ({"transformer.h.9.ln_1.weight": torch.ones(30)}, "h.9.ln_1.weight .30,. is unexpected"),
        ({"transformer.h.3.ln_1.weight": torch.ones(30)}, "n_layers 4 .not 3"),
        ({"extra": torch.ones(2)}, "tensor extra .2,. is unexpected"),
        ({"extra": 5}, "which is not a tensor"),
    ],
)
def test_what_is_no_state_dict_of_mingpt_is_refused(path, change, message):
    """Missing, odd and further tensors are named."""
    state = torch.load(path, weights_only=True) | change
    torch.save({name: value for name, value in state.items() if value is not None}, path)

    with pytest.raises((FormatError, ConfigError), match=message):
        zoo.load(path, format="mingpt", size=CONFIG)


def test_the_state_dict_is_in_the_files_orientation(path):
    """The square matrix of the second layer's attention is (out, in), as torch's Linear has it."""
    square = torch.load(path, weights_only=True)["transformer.h.1.attn.c_proj.weight"].numpy()

    np.testing.assert_array_equal(square, zoo.load(path, size=CONFIG).blocks[1].attn.out.weight.detach().numpy())
