"""The files in tests/golden/keras-hub were saved by Keras Hub 0.32.0 with Keras 3.15.1 (golden/make_keras_hub.py)."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import small_model
from strategies import configs

import zoo
from zoo.containers.hdf5.reader import read_hdf5, write_hdf5
from zoo.errors import CannotHold, CheckpointMismatch, FormatError, UnsafeFile, ZooError
from zoo.formats.base import Checkpoint
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format, get_format
from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer
from zoo.text.vocabulary import ALPHABET, Vocabulary

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "keras-hub"
IDS = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])
TEXT = "Every effort moves you — naïvely, 12345 times!\n\n  <|endoftext|>\tÀ bientôt 🙂"
CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, inner_width=70, dropout=0.25)
HELD = {"tied": True, "bias": True, "qkv_bias": True, "activation": "gelu_tanh", "norm_eps": 1e-5}
ATTENTION = "_self_attention_layer"


@pytest.fixture(autouse=True)
def h5py():
    return pytest.importorskip("h5py")


@pytest.fixture
def model():
    return small_model(CONFIG, dtype=torch.float32)


@pytest.fixture
def directory(tmp_path, model):
    """A directory as zoo writes it."""
    zoo.save(model, tmp_path / "kh", to="keras-hub")
    return tmp_path / "kh"


def rewrite(directory, change):
    """Replace the weights of a directory by what `change` makes of them."""
    weights = directory / "model.weights.h5"
    write_hdf5(directory / "new", change(read_hdf5(weights)))
    (directory / "new").replace(weights)


def edit(file, change):
    """Replace a JSON file by what `change` makes of it."""
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def equal(a, b):
    return a.config == b.config and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def check_logits(model, expected):
    """Logits differ by less than 1e-6 of the largest: Keras' layer norms compute in float32."""
    with torch.no_grad():
        found = model.double()(IDS).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * abs(expected).max())


def test_keras_hubs_own_preset_gives_its_logits_and_tokens():
    """Config, weights and tokenizer are read from the files that save_to_preset makes."""
    found, checkpoint = open_path(GOLDEN)
    model = zoo.load(GOLDEN)

    assert found.name == "keras-hub"
    assert checkpoint.config == CONFIG.replace(width=20, n_heads=4, n_layers=2, inner_width=50)
    assert model.tokenizer.encode(" quick fox") == [15, 18]
    check_logits(model, np.load(GOLDEN / "logits.npy"))


def test_heads_have_axes_of_their_own(directory, model):
    """Query, key and value are (C, H, D), the output is (H, D, C); the first block has no number in its name."""
    tensors = read_hdf5(directory / "model.weights.h5")
    key = tensors[f"layers/transformer_decoder_1/{ATTENTION}/key_dense/vars/0"].load()
    value_bias = tensors[f"layers/transformer_decoder/{ATTENTION}/value_dense/vars/1"].load()
    out = tensors[f"layers/transformer_decoder_2/{ATTENTION}/output_dense/vars/0"].load()
    qkv, bias = model.blocks[1].attn.qkv.weight, model.blocks[0].attn.qkv.bias

    assert (key.shape, value_bias.shape, out.shape) == ((30, 5, 6), (5, 6), (5, 6, 30))
    assert (key[7, 4, 2], value_bias[3, 1]) == (qkv[30 + 4 * 6 + 2, 7], bias[60 + 3 * 6 + 1])
    assert out[4, 2, 11] == model.blocks[2].attn.out.weight[11, 4 * 6 + 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(config=configs(**HELD), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_there_and_back_nothing_changes(tmp_path, config, dtype):
    """The way zoo -> Keras Hub -> zoo keeps every bit and the whole config."""
    zoo.save(small_model(config, dtype=dtype), tmp_path / "a.safetensors", force=True)
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub", force=True)
    zoo.convert(tmp_path / "b", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert there.lossless
    assert there.verified
    assert config == a.config == c.config
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)


def test_the_same_model_gives_the_same_bytes(tmp_path, directory, model):
    """No date is in any of the files."""
    zoo.save(model, tmp_path / "again", to="keras-hub")
    files = [file.relative_to(directory) for file in directory.rglob("*") if file.is_file()]

    assert len(files) == 4
    assert all((directory / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_vocabulary_and_provenance_come_along(tmp_path):
    """The tokenizer's files are in assets, and the record of the source in metadata.json."""
    zoo.save(zoo.create("test-tiny", seed=1), tmp_path / "a.safetensors")
    report = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub")
    checkpoint = open_path(tmp_path / "b")[1]

    assert checkpoint.vocabulary.is_gpt2
    assert report.provenance == checkpoint.provenance
    assert (tmp_path / "b" / "assets" / "tokenizer" / "merges.txt").read_bytes() == Vocabulary.gpt2().vocab_bpe


def test_without_a_vocabulary_there_is_no_preprocessor(directory):
    """Keras Hub would look for a tokenizer that nobody has."""
    task = json.loads((directory / "task.json").read_text())

    assert task["config"]["preprocessor"] is None
    assert not (directory / "tokenizer.json").exists()
    assert open_path(directory)[1].vocabulary is None


def test_a_vocabulary_that_keras_hub_cannot_have_is_kept_and_noted(tmp_path):
    """Its tokenizer needs <|endoftext|>; without it the files are there for zoo, and a note says so."""
    words = {char: i for i, (_, char) in enumerate(ALPHABET)}
    vocabulary = Vocabulary(json.dumps(words).encode(), b"#version: 0.2\n")
    config = CONFIG.replace(vocab_size=256)
    zoo.save(small_model(config, dtype=torch.float32, tokenizer=Tokenizer(vocabulary)), tmp_path / "a", to="keras-hub")
    (note,) = get_format("keras-hub").notes(Checkpoint(tmp_path, config, {}, vocabulary=vocabulary))

    assert "needs the token <|endoftext|>" in note
    assert json.loads((tmp_path / "a" / "task.json").read_text())["config"]["preprocessor"] is None
    assert open_path(tmp_path / "a")[1].vocabulary == vocabulary


def test_added_tokens_are_words_that_are_not_split(tmp_path):
    """Keras Hub has no list of added tokens; they go into the vocabulary, and zoo finds them again."""
    vocabulary = Vocabulary(b'{"<|endoftext|>": 0, "a": 1}', b"", b'{"<user>": 2}')
    config = CONFIG.replace(vocab_size=3)
    zoo.save(small_model(config, dtype=torch.float32, tokenizer=Tokenizer(vocabulary)), tmp_path / "a", to="keras-hub")
    tokenizer = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    words = json.loads((tmp_path / "a" / "assets" / "tokenizer" / "vocabulary.json").read_text())

    assert tokenizer["config"]["unsplittable_tokens"] == ["<|endoftext|>", "<user>"]
    assert words == {"<|endoftext|>": 0, "a": 1, "<user>": 2}
    found = open_path(tmp_path / "a")[1].vocabulary
    assert (found.tokens, found.added_tokens) == (vocabulary.tokens, {"<user>": 2})


def test_a_padded_vocabulary_keeps_its_rows_and_its_size(tmp_path):
    """config.json has the rows; metadata.json, which Keras Hub only writes, has the tokens."""
    model = small_model(CONFIG.replace(vocab_rows=101), dtype=torch.float32)
    zoo.save(model, tmp_path / "kh", to="keras-hub")

    assert json.loads((tmp_path / "kh" / "config.json").read_text())["config"]["vocabulary_size"] == 101
    assert equal(model, zoo.load(tmp_path / "kh"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tied": False}, "tied False"),
        ({"bias": False}, "bias False"),
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-06"),
        ({"activation": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_gpt2backbone_cannot_compute_is_refused(tmp_path, change, reason):
    """Keras Hub's GPT-2 has no argument for these; a model that needs one is refused by the field."""
    with pytest.raises(CannotHold, match=f"it has no place for {reason}"):
        zoo.save(zoo.create(CONFIG.replace(**change)), tmp_path / "kh", to="keras-hub", strict=True)


def test_former_names_are_understood(directory, model):
    """Before 2024 Keras reached the parts of the attention by private attributes."""
    rewrite(
        directory,
        lambda tensors: {name.replace(f"{ATTENTION}/", f"{ATTENTION}/_"): t for name, t in tensors.items()},
    )

    assert equal(model, zoo.load(directory))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"layers/transformer_decoder/{ATTENTION}/query_dense", f"layers/transformer_decoder/{ATTENTION}/_query_dense"),
        ("layers/transformer_decoder/", "layers/transformer_decoder_0/"),
    ],
)
def test_two_names_of_a_tensor_at_once_are_refused(directory, old, new):
    """One of the two must not win by chance."""
    rewrite(directory, lambda tensors: tensors | {n.replace(old, new): t for n, t in tensors.items() if old in n})
    with pytest.raises(CheckpointMismatch, match="is there under two names"):
        zoo.load(directory)


def test_quantised_weights_are_refused(directory):
    """Int8 kernels with their scales are not weights that zoo knows; every difference is named."""

    def quantise(tensors):
        name = "layers/transformer_decoder/_feedforward_output_dense/vars"
        kernel = tensors[f"{name}/0"]
        return {**tensors, f"{name}/0": kernel.astype(np.dtype(np.int8)), f"{name}/2": tensors[f"{name}/1"]}

    rewrite(directory, quantise)
    with pytest.raises(CheckpointMismatch, match=r"dtype int8, which is not a dtype of weights.*vars/2 .*unexpected"):
        zoo.load(directory)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_layers", 4, "is missing"),
        ("num_layers", "3", "n_layers must be of type int"),
        ("num_heads", 7, r"n_heads \(7\) must divide width \(30\)"),
        ("max_sequence_length", [23], "context_length must be of type int"),
        ("hidden_dim", None, "hidden_dim is missing"),
        ("vocabulary_size", 10**30, "has shape"),
    ],
)
def test_a_config_that_is_no_gpt2_is_refused(directory, key, value, words):
    """Every number is checked before a weight is read."""
    edit(directory / "config.json", lambda content: {**content, "config": {**content["config"], key: value}})
    with pytest.raises(FormatError, match=words):
        zoo.load(directory)


@pytest.mark.parametrize("change", [{"class_name": "BertBackbone"}, {"class_name": ["x"]}, {"config": 7}])
def test_another_model_is_none_of_ours(directory, change):
    """The config says which class it is; only GPT2Backbone is GPT-2."""
    edit(directory / "config.json", lambda content: {**content, **change})
    with pytest.raises(FormatError, match="not of Keras Hub's GPT2Backbone"):
        open_path(directory, format="keras-hub")
    assert get_format("keras-hub").sniff(directory) == ("config" in change)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"zoo_provenance": 7}, "its zoo_provenance is not a JSON object"), ({"zoo_vocab_size": 98}, "must be at least")],
)
def test_metadata_that_cannot_be_is_refused(directory, change, words):
    """What zoo keeps in metadata.json is checked when it is read."""
    edit(directory / "metadata.json", lambda content: {**content, **change})
    with pytest.raises(FormatError, match=words):
        open_path(directory)


def shard(directory):
    """Spread the weights of a directory over two files, with an index as Keras writes it."""
    tensors = read_hdf5(directory / "model.weights.h5")
    (directory / "model.weights.h5").unlink()
    names = [f"model_0000{i}.weights.h5" for i in (0, 1)]
    for i, name in enumerate(names):
        write_hdf5(directory / name, {n: t for k, (n, t) in enumerate(tensors.items()) if k % 2 == i})
    groups = dict.fromkeys("/" + name.rpartition("/")[0] for name in tensors)
    return {group: names if k % 3 else names[0] for k, group in enumerate(groups)}


def test_shards_are_read_as_one(directory, model):
    """A group of weights may lie in several files, which the index lists."""
    weight_map = shard(directory)
    (directory / "model.weights.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    assert detect_format(directory).name == detect_format(directory / "model.weights.json").name == "keras-hub"
    assert equal(model, zoo.load(directory))


def test_an_index_never_leads_out_of_its_directory(directory):
    """Shards are files beside the index, whatever it says."""
    weight_map = {**shard(directory), "/x": ["model_00000.weights.h5", "../outside.h5"]}
    (directory / "model.weights.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UnsafeFile, match="not inside its directory"):
        zoo.load(directory)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(directory, data):
    """Bytes of the weights or the config changed: a ZooError, or a checkpoint whose tensors are all there."""
    file = directory / data.draw(st.sampled_from(["model.weights.h5", "config.json"]))
    whole = file.read_bytes()
    content = bytearray(whole)
    used = [place for place, byte in enumerate(content) if byte]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.sampled_from(used))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        found, checkpoint = open_path(directory, format="keras-hub")
        ours, _ = found.to_ours(checkpoint)
        shapes = {name: tensor.load().shape for name, tensor in ours.items()}
    except ZooError:
        return
    finally:
        file.write_bytes(whole)

    assert checkpoint.config.parameter_shapes() == shapes


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A directory in which Keras Hub has loaded zoo's presets and saved its own (tests/keras_peer.py)."""
    if not (importlib.util.find_spec("keras_hub") and importlib.util.find_spec("h5py")):
        pytest.skip("keras-hub is not installed")
    directory = tmp_path_factory.mktemp("peer")
    for name, config in {"plain": CONFIG, "padded": CONFIG.replace(vocab_rows=101)}.items():
        zoo.save(small_model(config, dtype=torch.float32), directory / f"ours-{name}", to="keras-hub")
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        zoo.save(small_model(CONFIG, dtype=dtype), directory / f"ours-{name}", to="keras-hub")
    shutil.copytree(directory / "ours-plain", directory / "ours-former")
    rewrite(
        directory / "ours-former",
        lambda tensors: {name.replace(f"{ATTENTION}/", f"{ATTENTION}/_"): t for name, t in tensors.items()},
    )
    zoo.save(zoo.create("test-tiny", seed=1), directory / "ours-tokens", to="keras-hub")
    run = subprocess.run(
        [sys.executable, TESTS / "keras_peer.py", directory], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return directory


@pytest.mark.peers
@pytest.mark.parametrize("name", ["plain", "padded", "float16", "bfloat16", "former"])
def test_keras_hub_loads_what_zoo_writes(peer, name):
    """GPT2CausalLM and GPT2Backbone load the directory, and the logits agree."""
    check_logits(zoo.load(peer / f"ours-{name}"), np.load(peer / f"ours-{name}.npy"))


@pytest.mark.peers
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "sharded"])
def test_zoo_loads_what_keras_hub_saves(peer, name):
    """One file or several, in every dtype: the config is the same, and the logits agree."""
    model = zoo.load(peer / f"theirs-{name}")

    assert model.config == CONFIG
    check_logits(model, np.load(peer / f"theirs-{name}.npy"))


@pytest.mark.peers
def test_keras_hubs_tokenizer_reads_the_vocabulary(peer):
    """The assets make Keras Hub's tokenizer split text as zoo's does."""
    expected = zoo.load(peer / "ours-tokens").tokenizer.encode(TEXT)

    assert expected == np.load(peer / "ours-tokens.ids.npy").tolist()


@pytest.mark.peers
@pytest.mark.parametrize("name", ["plain", "tokens"])
def test_the_json_files_are_those_that_keras_hub_saves(peer, name):
    """A preset that Keras Hub loads and saves again has the same objects; only metadata.json differs."""
    ours, again = peer / f"ours-{name}", peer / f"again-{name}"
    files = {file.name for file in ours.glob("*.json")} - {"metadata.json"}

    assert files == {file.name for file in again.glob("*.json")} - {"metadata.json"}
    assert len(files) == (4 if name == "tokens" else 2)
    for file in files:
        assert json.loads((again / file).read_text()) == json.loads((ours / file).read_text())
