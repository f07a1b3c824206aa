import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nano_model import Model, model_args, randomize
from small import random_ids, small_model
from strategies import configs
from torch.nn import functional as F

import zoo
from zoo import make_plan
from zoo.errors import CannotHold, CheckpointMismatch, FormatError, OptionError, ZooError
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import ACTIVATION_DIFFERENCE, GPTConfig
from zoo.text.vocabulary import Vocabulary

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, dropout=0.3, activation="gelu")
FRESH = CONFIG
HELD = {"vocab_rows": 0, "tied": True, "inner_width": 0, "norm_eps": 1e-5}


def save_as_train_py(peer, path, *, iter_num=0, optimizer=None, prefix="", **changes):
    """A checkpoint with the keys that train.py saves."""
    checkpoint = {
        "model": {prefix + name: tensor for name, tensor in peer.state_dict().items()},
        "optimizer": (optimizer or peer.configure_optimizer()).state_dict(),
        "model_args": model_args(FRESH),
        "iter_num": iter_num,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "openwebtext", "batch_size": 12} if iter_num else {},
    }
    torch.save(checkpoint | changes, path)


@pytest.fixture
def peer():
    return randomize(Model(**model_args(FRESH)))


@pytest.fixture
def path(tmp_path, peer):
    """A checkpoint as nanoGPT writes it before its first step."""
    save_as_train_py(peer, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_nanogpt_loads_what_zoo_writes(tmp_path):
    """GPT(GPTConfig(**model_args)) loads the state dict strictly, as sample.py does, and computes the same logits."""
    model = small_model(CONFIG).float()
    zoo.save(model, tmp_path / "ckpt.pt")
    model.double()
    checkpoint = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    peer = Model(**checkpoint["model_args"]).double()
    peer.load_state_dict(checkpoint["model"], strict=True)
    ids = random_ids(2, 23)

    assert list(checkpoint) == ["model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"]
    assert model_args(CONFIG) == checkpoint["model_args"]
    assert "dataset" not in checkpoint["config"]
    with torch.no_grad():
        torch.testing.assert_close(peer.eval()(ids), model(ids), rtol=0, atol=1e-11)


def test_the_head_is_saved_under_both_names_and_stored_once(tmp_path):
    """lm_head.weight is the embedding itself, in the file too."""
    zoo.save(small_model(CONFIG, dtype=torch.float32), tmp_path / "ckpt.pt")
    state = torch.load(tmp_path / "ckpt.pt", weights_only=True)["model"]

    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    stored = [name for name in zipfile.ZipFile(tmp_path / "ckpt.pt").namelist() if "/data/" in name]
    assert len(stored) == len(CONFIG.parameter_shapes())


@pytest.mark.parametrize("bias", [True, False])
def test_training_goes_on_from_what_zoo_writes(tmp_path, bias):
    """AdamW in nanoGPT's groups accepts the optimizer's state, the loss falls, and zoo reads what is saved then."""
    config = CONFIG.replace(bias=bias, qkv_bias=bias)
    zoo.save(small_model(config, dtype=torch.float32), tmp_path / "ckpt.pt")
    checkpoint = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    model = Model(**checkpoint["model_args"])
    model.load_state_dict(checkpoint["model"])
    optimizer = model.configure_optimizer(weight_decay=0.5)
    optimizer.load_state_dict(checkpoint["optimizer"])
    for group in optimizer.param_groups:
        group["lr"] = 0.003
    ids, losses = random_ids(4, 24), []
    for _ in range(8):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    assert (checkpoint["iter_num"], checkpoint["best_val_loss"]) == (0, 1e9)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert losses[-1] < 0.9 * losses[0]
    save_as_train_py(model, tmp_path / "on.pt", iter_num=8, optimizer=optimizer, model_args=checkpoint["model_args"])
    again = zoo.load(tmp_path / "on.pt")
    assert config == again.config
    assert torch.equal(model.transformer["h"][2].attn.c_proj.weight, again.blocks[2].attn.out.weight)


def test_zoo_loads_what_nanogpt_saves(path, peer):
    """Every parameter is there, the config is that of model_args, and the logits agree."""
    model = zoo.load(path)
    ids = random_ids(2, 23)

    assert model.config == FRESH
    with torch.no_grad():
        torch.testing.assert_close(model.double()(ids), peer.double()(ids), rtol=0, atol=1e-11)


def test_the_prefix_of_a_compiled_model_is_recorded(tmp_path, peer, path):
    """_orig_mod. comes off all names, the head's too, and the report says that it was there."""
    save_as_train_py(peer, tmp_path / "compiled.pt", prefix="_orig_mod.")
    _, plain = open_path(path)
    _, compiled = open_path(tmp_path / "compiled.pt")

    assert (plain.prefix, compiled.prefix) == ("", "_orig_mod.")
    assert set(plain.tensors) == set(compiled.tensors)
    assert zoo.convert(tmp_path / "compiled.pt", tmp_path / "out.safetensors").prefix == "_orig_mod."


def test_masks_of_older_torch_are_dropped_once_they_are_proved(tmp_path):
    """Where torch had no flash attention the file has causal masks; another mask is refused."""
    peer = randomize(Model(**model_args(FRESH), minimal=True))
    peer.transformer["wte"].weight = peer.lm_head.weight
    save_as_train_py(peer, tmp_path / "old.pt")
    report = zoo.convert(tmp_path / "old.pt", tmp_path / "out.safetensors")
    masks = {f"transformer.h.{i}.attn.bias" for i in range(3)}
    assert {"lm_head.weight", *masks} == set(report.dropped)

    peer.transformer["h"][1].attn.bias[0, 0, 4, 5] = 1
    save_as_train_py(peer, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointMismatch, match=r"transformer.h.1.attn.bias is not a buffer"):
        zoo.convert(tmp_path / "wrong.pt", tmp_path / "out.safetensors", force=True)


def test_a_head_of_its_own_is_refused(tmp_path, peer, path):
    """NanoGPT's head is the embedding: a file in which they differ is not such a checkpoint."""
    state = peer.state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].clone()
    state["lm_head.weight"][7, 3] += 1
    save_as_train_py(peer, path, model=state)

    with pytest.raises(CheckpointMismatch, match=r"lm_head.weight is not a copy of transformer.wte.weight"):
        zoo.load(path)


@pytest.mark.parametrize(("rows", "tokens"), [(50304, 50257), (50257, 50257), (50305, 50305), (65, 65)])
def test_50304_rows_are_gpt2s_tokens_padded(tmp_path, rows, tokens):
    """Only the padding that train.py itself makes is taken for one."""
    args = {**model_args(FRESH), "n_layer": 1, "n_head": 1, "n_embd": 2, "block_size": 3, "vocab_size": rows}
    save_as_train_py(Model(**args), tmp_path / "ckpt.pt", model_args=args)
    config = open_path(tmp_path / "ckpt.pt")[1].config

    assert (tokens, rows) == (config.vocab_size, config.vocab_rows)


def test_a_checkpoint_from_before_the_bias_switch_means_the_tanh_gelu(tmp_path, peer, path):
    """Until January 2023 model_args had no bias, all layers had one, and GELU was approximated."""
    args = model_args(FRESH)
    del args["bias"]
    save_as_train_py(peer, path, model_args=args)

    assert FRESH.replace(activation="gelu_tanh") == open_path(path)[1].config


def test_the_state_of_training_is_reported(tmp_path, peer, path):
    """Optimizer, step, loss and settings stay behind and are named; a fresh checkpoint has nothing to name."""
    optimizer = peer.configure_optimizer()
    peer(random_ids(1, 9)).sum().backward()
    optimizer.step()
    save_as_train_py(peer, tmp_path / "trained.pt", iter_num=2000, optimizer=optimizer)
    expected = "optimizer's state (40 entries), config (2 entries), iter_num 2000, best_val_loss 2.5"

    assert (f"the file has {expected}; that is not part of the model and is left out",) == open_path(
        tmp_path / "trained.pt"
    )[1].notes
    assert open_path(path)[1].notes == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(config=configs(**HELD), half=st.booleans())
@example(config=CONFIG.replace(activation="gelu_tanh"), half=False)
@example(config=CONFIG.replace(bias=False, qkv_bias=False), half=True)
def test_there_and_back_nothing_changes(tmp_path, config, half):
    """The way zoo -> nanogpt -> zoo keeps every bit and the whole config, tokens and activation too."""
    config = config.replace(qkv_bias=config.bias)
    zoo.save(
        small_model(config, dtype=torch.bfloat16 if half else torch.float32), tmp_path / "a.safetensors", force=True
    )
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.pt", force=True)
    back = zoo.convert(tmp_path / "b.pt", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert there.verified
    assert config == a.config == c.config
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)
    assert back.notes == []
    assert c.provenance["source_provenance"] == there.provenance


def test_another_activation_is_told_of(tmp_path):
    """A model of the approximated GELU is written with a note that nanoGPT's is exact; one of the exact one without."""
    for activation in ("gelu", "gelu_tanh"):
        model = small_model(CONFIG.replace(activation=activation), dtype=torch.float32)
        zoo.save(model, tmp_path / f"{activation}.safetensors")
    note = f"nanoGPT will compute the exact GELU, not its tanh approximation. {ACTIVATION_DIFFERENCE}"

    assert make_plan(tmp_path / "gelu.safetensors", "nanogpt").notes == []
    assert [note] == make_plan(tmp_path / "gelu_tanh.safetensors", "nanogpt").notes
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    assert (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max() < 0.0005


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tied": False}, "it has no place for tied False"),
        ({"qkv_bias": False}, "it has no place for qkv_bias False beside bias True"),
        ({"bias": False}, "it has no place for qkv_bias True beside bias False"),
        ({"inner_width": 70}, "it has no place for inner_width 70"),
        ({"norm_eps": 1e-6}, "it has no place for norm_eps 1e-06"),
    ],
)
def test_what_nanogpt_has_not_is_refused(tmp_path, change, reason):
    """A model that nanoGPT's GPTConfig cannot describe is refused by what it is."""
    zoo.save(small_model(CONFIG.replace(**change), dtype=torch.float32), tmp_path / "a.safetensors")

    with pytest.raises(CannotHold, match=reason):
        zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.pt", strict=True)
    with pytest.raises(CannotHold, match=reason):
        zoo.save(zoo.load(tmp_path / "a.safetensors"), tmp_path / "b.pt", strict=True)


def test_a_tokenizer_of_its_own_comes_back(tmp_path):
    """The vocabulary lies beside the tensors, where nanoGPT does not look."""
    vocabulary = Vocabulary.byte_level(b'{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}', b"#version: 0.2\na b\n")
    model = small_model(CONFIG, dtype=torch.float32, tokenizer=zoo.Tokenizer(vocabulary))
    zoo.save(model, tmp_path / "ckpt.pt")

    assert vocabulary == open_path(tmp_path / "ckpt.pt")[1].vocabulary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_args": None}, "does not say how many attention heads"),
        ({"model_args": {}}, "n_layer is missing"),
        ({"model_args": {**model_args(FRESH), "n_layer": "3"}}, "n_layers must be of type int"),
        ({"model_args": {**model_args(FRESH), "n_layer": torch.ones(2)}}, "n_layers must be of type int"),
        ({"model_args": {**model_args(FRESH), "n_head": 7}}, "must divide width"),
        ({"model_args": {**model_args(FRESH), "use_relu": True}}, "has use_relu in its model_args"),
        ({"model_args": {**model_args(FRESH), "vocab_size": 100}}, "where the config asks for"),
        ({"model_args": {**model_args(FRESH), "bias": False}}, "is unexpected"),
        ({"model": None}, "holds 'model', which is not a tensor"),
        ({"model": {"transformer.wte.weight": 5}}, "which is not a tensor"),
        ({"model": {}}, "holds 'model', which is not a tensor"),
    ],
)
def test_what_is_no_checkpoint_of_nanogpt_is_refused(peer, path, change, message):
    """Whatever lies under the keys, the answer is a sentence that says what is wrong with it."""
    save_as_train_py(peer, path, **change)

    with pytest.raises(FormatError, match=message):
        zoo.load(path, format="nanogpt")


@pytest.mark.parametrize("odd", [None, 7, "text", [1, 2], {"state": 3}, {"state": {}}, torch.ones(2, 3)])
def test_odd_states_of_training_do_no_harm(peer, path, odd):
    """What is beside the model need not be what train.py writes."""
    save_as_train_py(peer, path, optimizer=None, iter_num=0)
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"optimizer": odd, "iter_num": odd, "best_val_loss": odd, "config": odd}, path)

    assert open_path(path)[1].config == FRESH


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(tmp_path, path, data):
    """A byte changed or the end cut off: a ZooError, or the same weights."""
    _, whole = open_path(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    broken = tmp_path / "broken.pt"
    broken.write_bytes(content)
    try:
        _, checkpoint = open_path(broken, format="nanogpt")
        arrays = {name: tensor.load() for name, tensor in checkpoint.tensors.items()}
    except ZooError:
        return

    assert list(whole.tensors) == list(arrays)
    assert all(np.array_equal(whole.tensors[name].load(), array) for name, array in arrays.items())


TEXT = "Wo bist du, ROMEO?\né"


def character_model(directory):
    """What train.py leaves of a character model: out/ckpt.pt, and the meta.pkl of its data beside it."""
    chars = sorted(set(TEXT))
    config = GPTConfig(vocab_size=len(chars), context_length=23, width=30, n_heads=5, n_layers=3, activation="gelu")
    peer = randomize(Model(**model_args(config)), 4)
    stoi = {char: i for i, char in enumerate(chars)}
    meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars)), "stoi": stoi}
    directory.mkdir()
    torch.save({"model": peer.state_dict(), "model_args": model_args(config)}, directory / "ckpt.pt")
    (directory / "meta.pkl").write_bytes(pickle.dumps(meta))
    return stoi


def test_a_character_model_speaks_in_its_own_characters(tmp_path):
    """The out/ directory is a usable model: meta.pkl says its characters, and a character without id is refused."""
    stoi = character_model(tmp_path / "out")
    tokenizer = zoo.load(tmp_path / "out").tokenizer

    assert tokenizer.encode(TEXT) == [stoi[char] for char in TEXT]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    with pytest.raises(OptionError, match="no token"):
        tokenizer.encode("Zebra")


@pytest.mark.peers
def test_its_characters_reach_transformers(tmp_path):
    """Converted to Hugging Face's format, transformers encodes the characters to the same ids."""
    transformers = pytest.importorskip("transformers")
    stoi = character_model(tmp_path / "out")
    zoo.convert(tmp_path / "out", tmp_path / "hf", to="huggingface", activation="gelu_tanh")

    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(TEXT).input_ids == [stoi[char] for char in TEXT]


def test_a_foreign_meta_pkl_is_refused(tmp_path):
    """Characters of another model, and a pickle that names a function, are not taken."""
    character_model(tmp_path / "out")
    (tmp_path / "out" / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": 0, "b": 1}}))
    with pytest.raises(FormatError, match="2 characters, but the model beside it 17 tokens"):
        zoo.load(tmp_path / "out")
    (tmp_path / "out" / "meta.pkl").write_bytes(pickle.dumps({"stoi": print}))
    with pytest.raises(FormatError):
        zoo.load(tmp_path / "out")
