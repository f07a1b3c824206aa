"""The content hash is one for all files of a model, and another for every other model."""

import json

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, small_model

import zoo
from zoo.core.tensors import LazyTensor
from zoo.formats.content_hash import hash_tensors


@pytest.fixture
def model():
    """In float32, with a padded vocabulary."""
    return small_model(SMALL.replace(vocab_rows=101), dtype=torch.float32)


def test_it_is_what_the_documentation_says(tmp_path, model):
    """BLAKE3 of a JSON text of config fields and hashes of values, computed here from torch's tensors."""
    zoo.save(model, tmp_path / "x.safetensors")
    tensors = {}
    for name, value in model.state_dict().items():
        array = value.numpy()[:97] if name == "tok_emb.weight" else value.numpy()
        tensors[name] = ["float32", list(array.shape), blake3(array.tobytes()).hexdigest()]
    config = {"activation": "gelu_tanh", "n_heads": 5, "norm_eps": 1e-5, "tied": True}
    text = json.dumps({"config": config, "tensors": tensors}, sort_keys=True, separators=(",", ":"))
    assert blake3(text.encode()).hexdigest() == zoo.content_hash(tmp_path / "x.safetensors")


def test_shards_padding_and_dropout_do_not_count_but_dtypes_do(tmp_path, model):
    """What changes no computed value changes no hash."""
    zoo.save(model, tmp_path / "x.safetensors")
    value = zoo.content_hash(tmp_path / "x.safetensors")
    zoo.convert(tmp_path / "x.safetensors", tmp_path / "hf", to="huggingface", max_shard_bytes=20_000)
    with torch.no_grad():
        model.tok_emb.weight[97:] += 1.0
    model.config = model.config.replace(dropout=0.25)
    zoo.save(model, tmp_path / "y.safetensors")
    zoo.convert(tmp_path / "x.safetensors", tmp_path / "z.safetensors", dtype="bfloat16")
    assert [value, value] == [zoo.content_hash(tmp_path / name) for name in ("hf", "y.safetensors")]
    assert value != zoo.content_hash(tmp_path / "z.safetensors")


def test_conversions_record_it(tmp_path, model):
    """The provenance of an output has the hash that the output has, also after a cast or quantised."""
    zoo.save(model, tmp_path / "x.safetensors")
    for name, dtype in (
        ("y.safetensors", None),
        ("z.safetensors", "bfloat16"),
        ("q.gguf", "q8_0"),
        ("i.safetensors", "int8"),
    ):
        report = zoo.convert(tmp_path / "x.safetensors", tmp_path / name, dtype=dtype)
        assert zoo.content_hash(tmp_path / name) == report.provenance["content_blake3"]


def test_a_tokenizer_that_is_added_later_changes_nothing(tmp_path):
    """Fewer tokens than rows beside weights that were written without a vocabulary leave all rows tokens."""
    zoo.save(small_model(SMALL, dtype=torch.float32), tmp_path / "hf", to="huggingface")
    value = zoo.content_hash(tmp_path / "hf")
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps({chr(97 + i): i for i in range(26)}))
    (tmp_path / "hf" / "merges.txt").write_text("#version: 0.2\n")

    assert value == zoo.content_hash(tmp_path / "hf")
    assert zoo.load(tmp_path / "hf", check=True).config == SMALL


@given(st.data())
def test_a_single_bit_of_any_tensor_changes_it(data):
    """As does any field of the config that the model computes with."""
    config = SMALL.replace(n_layers=1)
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in config.parameter_shapes().items()}
    value = hash_tensors({name: LazyTensor.of(array) for name, array in arrays.items()}, config)
    name = data.draw(st.sampled_from(sorted(arrays)))
    flat = arrays[name].reshape(-1).view(np.uint32)
    flat[data.draw(st.integers(0, flat.size - 1))] ^= np.uint32(1) << np.uint32(data.draw(st.integers(0, 31)))
    tensors = {name: LazyTensor.of(array) for name, array in arrays.items()}
    other = hash_tensors(tensors, config)
    assert value != other
    changes = data.draw(st.sampled_from([{"n_heads": 6}, {"norm_eps": 1e-6}, {"activation": "gelu"}]))
    assert other != hash_tensors(tensors, config.replace(**changes))
