"""The files in tests/golden/flax* were saved by transformers 4.57.6 with flax 0.12.8 (golden/make_flax.py)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import small_model
from strategies import configs

import zoo
from zoo.containers import flax_params as _flax_file
from zoo.containers.flax_params import read_flax, write_flax
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold, CheckpointMismatch, CorruptFile, FormatError, UnsafeFile, ZooError
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format, get_format
from zoo.models.gpt2.config import GPTConfig

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])
CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, inner_width=70, dropout=0.25)


@pytest.fixture
def directory(tmp_path):
    """A directory as transformers wrote it."""
    return shutil.copytree(GOLDEN / "flax", tmp_path / "flax")


@pytest.mark.parametrize("name", ["flax", "flax-untied"])
def test_transformers_own_files_give_its_logits(name):
    """One file and several, tied and untied, float32 and bfloat16: logits in float64 differ by less than 1e-14."""
    model = zoo.load(GOLDEN / name).double()
    expected = np.load(GOLDEN / name / "logits.npy")
    with torch.no_grad():
        found = model(IDS).numpy()

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * abs(expected).max())


def test_configs_and_dtypes_are_those_of_the_files():
    """Config, dtype and prefix come from the files; loaded weights are aligned, wherever they lie in a file."""
    found, checkpoint = open_path(GOLDEN / "flax-untied")
    model = zoo.load(GOLDEN / "flax-untied")

    assert (
        found.name,
        checkpoint.prefix,
        checkpoint.config.tied,
        checkpoint.config.activation,
    ) == ("flax", "transformer/", False, "gelu")
    assert {torch.bfloat16} == {parameter.dtype for parameter in model.parameters()}
    assert open_path(GOLDEN / "flax")[1].config.dropout == 0.25
    assert all(parameter.data_ptr() % 4 == 0 for parameter in zoo.load(GOLDEN / "flax").parameters())


def test_zoo_writes_what_transformers_wrote_byte_for_byte(tmp_path):
    """A file of transformers, converted to Flax again, is the same file."""
    zoo.convert(GOLDEN / "flax", tmp_path / "out", to="flax")

    assert (GOLDEN / "flax" / "flax_model.msgpack").read_bytes() == (
        tmp_path / "out" / "flax_model.msgpack"
    ).read_bytes()


def test_kernels_lie_as_flax_conv1d_has_them(tmp_path):
    """c_attn and the square c_proj are (out, in), as in zoo; only the kernel of the head is (in, out)."""
    model = small_model(CONFIG.replace(tied=False), dtype=torch.float32)
    zoo.save(model, tmp_path / "out", to="flax")
    tensors = read_flax(tmp_path / "out" / "flax_model.msgpack")

    assert tensors["transformer/h/0/attn/c_attn/kernel"].shape == (90, 30)
    np.testing.assert_array_equal(
        model.blocks[1].attn.out.weight.numpy(force=True), tensors["transformer/h/1/attn/c_proj/kernel"].load()
    )
    np.testing.assert_array_equal(model.head.weight.numpy(force=True).T, tensors["lm_head/kernel"].load())


def test_large_arrays_are_cut_as_flax_cuts_them(tmp_path, monkeypatch):
    """An array above the limit becomes the chunks that flax makes of it, and is put together from flax's."""
    array = np.arange(70, dtype=np.float32).reshape(7, 10)
    monkeypatch.setattr(_flax_file, "MAX_CHUNK_BYTES", 100)
    write_flax(tmp_path / "a.msgpack", {"a/b": LazyTensor.of(array)})
    found = read_flax(GOLDEN / "flax-chunked.msgpack")

    assert (GOLDEN / "flax-chunked.msgpack").read_bytes() == (tmp_path / "a.msgpack").read_bytes()
    assert list(found) == ["a/b"]
    np.testing.assert_array_equal(array, found["a/b"].load())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(config=configs(bias=True, qkv_bias=True), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_there_and_back_nothing_changes(tmp_path, config, dtype):
    """The way zoo -> Flax -> zoo keeps every bit and the whole config."""
    zoo.save(small_model(config, dtype=dtype), tmp_path / "a.safetensors", force=True)
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b", to="flax", force=True)
    zoo.convert(tmp_path / "b", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert there.lossless
    assert there.verified
    assert config == a.config == c.config
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)


def test_vocabulary_and_provenance_come_along(tmp_path):
    """The tokenizer's files are Hugging Face's, and the record of the source survives the next conversion."""
    zoo.save(zoo.create("test-tiny", seed=1), tmp_path / "a.safetensors")
    report = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b", to="flax")
    checkpoint = open_path(tmp_path / "b")[1]

    assert checkpoint.vocabulary.is_gpt2
    assert report.provenance == checkpoint.provenance
    assert json.loads((tmp_path / "b" / "config.json").read_text())["eos_token_id"] == 50256


def test_a_model_without_biases_is_refused(tmp_path):
    """Transformers' GPT-2 always has biases."""
    with pytest.raises(CannotHold, match="no place for bias False"):
        zoo.save(zoo.create(CONFIG.replace(bias=False)), tmp_path / "out", to="flax", strict=True)


def test_beside_other_weights_flax_is_read_when_it_is_named(tmp_path, directory):
    """Where safetensors lie beside them, they count; the file itself, or the format's name, mean Flax."""
    zoo.save(zoo.create(CONFIG), tmp_path / "hf", to="huggingface")
    shutil.copy(tmp_path / "hf" / "model.safetensors", directory)

    assert detect_format(directory).name == "huggingface"
    assert detect_format(directory / "flax_model.msgpack").name == "flax"
    assert zoo.load(directory, format="flax").config.width == 20


def test_a_missing_part_and_another_shape_are_told(directory):
    """A tensor that is gone and a shard that lacks are named."""
    tensors = read_flax(directory / "flax_model.msgpack")
    del tensors["transformer/h/1/ln_2/bias"]
    write_flax(directory / "new", tensors)
    (directory / "new").replace(directory / "flax_model.msgpack")
    with pytest.raises(CheckpointMismatch, match=r"h/1/ln_2/bias \(20,\) is missing"):
        zoo.load(directory)
    (directory / "flax_model.msgpack").unlink()
    with pytest.raises(FormatError, match=r"has no flax_model.msgpack"):
        open_path(directory, format="flax")


@pytest.mark.parametrize(
    ("weight_map", "error", "words"),
    [
        ({"a": "../flax_model.msgpack"}, UnsafeFile, "not inside its directory"),
        ({"a": ["/etc/passwd"]}, UnsafeFile, "not inside its directory"),
        ({"a": {"b": 1}}, UnsafeFile, "not inside its directory"),
        ({"a": "lacking.msgpack"}, FormatError, "lacking.msgpack: cannot be read"),
        ({}, CheckpointMismatch, "is missing"),
        ("all", FormatError, "has no weight_map"),
    ],
)
def test_an_index_that_leads_astray_is_refused(directory, weight_map, error, words):
    """Shards are files beside the index, whatever it says."""
    (directory / "flax_model.msgpack").rename(directory.parent / "flax_model.msgpack")
    (directory / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(error, match=words):
        zoo.load(directory)


def test_a_tensor_in_two_shards_is_refused(directory):
    """Nobody can tell which of the two counts."""
    shutil.copy(directory / "flax_model.msgpack", directory / "b.msgpack")
    (directory / "flax_model.msgpack").rename(directory / "a.msgpack")
    index = {"weight_map": {"x": "a.msgpack", "y": "b.msgpack"}}
    (directory / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointMismatch, match=r"is in b.msgpack and in another shard"):
        zoo.load(directory)


def packed(shape=b"\x92\x02\x03", name=b"\xa7float32", data=b"\xc4\x18" + bytes(24), kind=1):
    """A file with one array, written out: {"a": ext([shape, name, data])}."""
    content = b"\x93" + shape + name + data
    return b"\x81\xa1a\xc7" + bytes([len(content), kind]) + content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(shape=b"\x92\x02\x04"), r"a \(2, 4\) has 24 bytes"),
        (packed(shape=b"\x92\xff\x03"), "an impossible shape"),
        (packed(shape=b"\x92\xc0\x03"), "an impossible shape"),
        (packed(shape=b"\x92\xcf" + b"\x7f" * 8 + b"\x03"), "an impossible shape"),
        (packed(shape=b"\x06"), "a is not an array of numbers"),
        (packed(name=b"\xa6object"), "a is not an array of numbers"),
        (packed(name=b"\x91\x01"), "a is not an array of numbers"),
        (packed(data=b"\xa1a"), "a is not an array of numbers"),
        (packed(kind=2), "a is not an array of numbers"),
        (packed()[4:], "key|truncated|byte"),
        (b"\x01", "has a int at its top"),
        (b"\x81\xa1a\x01", "has a int at a"),
        (b"\x81\xa3a/b\x80", "slash"),
        (
            b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x01\xa6chunks\x80",
            "chunks of a are not flat",
        ),
        (b"\x81\xa1a\x81\xb9__msgpack_chunked_array__\xc3", "chunks of a are not flat"),
    ],
)
def test_arrays_that_cannot_be_are_refused(tmp_path, content, words):
    """Shape, dtype and bytes have to agree before an array exists."""
    (tmp_path / "a.msgpack").write_bytes(content)
    with pytest.raises(CorruptFile, match=words):
        read_flax(tmp_path / "a.msgpack")


def test_an_array_written_out_is_read(tmp_path):
    """The bytes that the tests above damage are an array when they are intact."""
    (tmp_path / "a.msgpack").write_bytes(packed())

    assert [(name, tensor.shape) for name, tensor in read_flax(tmp_path / "a.msgpack").items()] == [("a", (2, 3))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(directory, data):
    """Bytes changed or cut: a ZooError, or a checkpoint whose tensors are all there."""
    content = bytearray((GOLDEN / "flax" / "flax_model.msgpack").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 200) | st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    (directory / "flax_model.msgpack").write_bytes(content[:cut])
    try:
        found, checkpoint = open_path(directory, format="flax")
        ours, _ = found.to_ours(checkpoint)
        shapes = {name: tensor.load().shape for name, tensor in ours.items()}
    except ZooError:
        return

    assert checkpoint.config.parameter_shapes() == shapes


def test_an_lfs_pointer_says_so(directory):
    """Weights that git-lfs has not fetched are recognised."""
    (directory / "flax_model.msgpack").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(FormatError, match="Git LFS pointer"):
        zoo.load(directory)


def test_the_format_is_known_to_the_registry():
    """Its name finds it, and it both reads and writes."""
    assert (get_format("flax").reads, get_format("flax").writes) == (True, True)
