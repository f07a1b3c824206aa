"""The files in tests/golden/tf-h5* were saved by transformers 4.57.6 with TensorFlow 2.21 (golden/make_tf_h5.py)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo import make_plan
from zoo.containers.hdf5.reader import read_hdf5, write_hdf5
from zoo.errors import CheckpointMismatch, CorruptFile, FormatError, OptionError, UnsafeFile
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])


@pytest.fixture(autouse=True)
def h5py():
    return pytest.importorskip("h5py")


@pytest.fixture
def directory(tmp_path):
    """A directory as transformers wrote it."""
    return shutil.copytree(GOLDEN / "tf-h5", tmp_path / "tf")


def rewrite(directory, change):
    """Replace the weights of a directory by what `change` makes of them."""
    weights = directory / "tf_model.h5"
    write_hdf5(directory / "new", change(read_hdf5(weights)))
    (directory / "new").replace(weights)


def equal(a, b):
    return a.config == b.config and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["tf-h5", "tf-h5-sharded"])
def test_transformers_own_files_give_its_logits(name):
    """One file and several, tanh and exact GELU: logits in float64 differ by 1e-8 (TensorFlow's GELU has constants in
    float32).
    """
    model = zoo.load(GOLDEN / name).double()
    expected = np.load(GOLDEN / name / "logits.npy")
    with torch.no_grad():
        found = model(IDS).numpy()

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * abs(expected).max())


def test_configs_and_prefixes_are_those_of_the_files():
    """Names begin with those of the layer and of the model in one file, with that of the layer in shards."""
    found, whole = open_path(GOLDEN / "tf-h5")
    shards = open_path(GOLDEN / "tf-h5-sharded")[1]

    assert found.name == "tf-h5"
    assert (whole.prefix, shards.prefix) == ("transformer/tfgpt2lm_head_model/transformer/", "transformer/")
    assert (whole.config.dropout, shards.config.activation, shards.config.norm_eps) == (0.25, "gelu", 1e-6)
    assert len(shards.files) == 6


def test_linear_layers_are_conv1d(directory):
    """Weights lie (in, out), and biases are rows, as TFConv1D makes them."""
    tensors = open_path(directory)[1].tensors
    model = zoo.load(directory)

    assert tensors["h_._0/attn/c_attn/bias:0"].shape == (1, 60)
    square = tensors["h_._1/attn/c_proj/weight:0"].load()
    np.testing.assert_array_equal(square.T, model.blocks[1].attn.out.weight.numpy(force=True))


@pytest.mark.parametrize("model_name", ["tfgp_t2lm_head_model", "tfgpt2_model_3"])
def test_former_names_are_understood(directory, model_name):
    """The published gpt2's file has wte/weight:0, from before May 2023, and another spelling of the model's name."""
    expected = zoo.load(directory)
    new = {"wte/embeddings:0": "wte/weight:0", "tfgpt2lm_head_model": model_name}

    def rename(name):
        for old, former in new.items():
            name = name.replace(old, former)
        return name

    rewrite(directory, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})

    assert f"transformer/{model_name}/transformer/" == open_path(directory)[1].prefix
    assert equal(expected, zoo.load(directory))


def test_both_names_of_the_embedding_at_once_are_refused(directory):
    """One of the two must not win by chance."""
    prefix = "transformer/tfgpt2lm_head_model/transformer/wte/"
    rewrite(directory, lambda tensors: {**tensors, f"{prefix}weight:0": tensors[f"{prefix}embeddings:0"]})
    with pytest.raises(CheckpointMismatch, match=r"wte/weight:0 \(97, 20\) is unexpected"):
        zoo.load(directory)


def test_an_untied_config_is_refused(directory):
    """TensorFlow's GPT-2 has no head of its own, so that a config with one belongs to other weights."""
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(CheckpointMismatch, match=r"lm_head/kernel:0 \(20, 97\) is missing"):
        zoo.load(directory)


def test_it_converts_to_other_formats_and_is_not_written(tmp_path, directory):
    """Everything that zoo writes can come of it; nothing becomes of it."""
    report = zoo.convert(directory, tmp_path / "a.safetensors")

    assert report.verified
    assert equal(zoo.load(directory), zoo.load(tmp_path / "a.safetensors"))
    with pytest.raises(OptionError, match="zoo reads tf-h5, but does not write it"):
        make_plan(tmp_path / "a.safetensors", "tf-h5")


def test_beside_other_weights_it_is_read_when_it_is_named(tmp_path, directory):
    """Where safetensors lie beside it, they count; the file itself, or the format's name, mean TensorFlow's."""
    zoo.save(zoo.load(directory), tmp_path / "hf", to="huggingface")
    shutil.copy(tmp_path / "hf" / "model.safetensors", directory)

    assert detect_format(directory).name == "huggingface"
    assert detect_format(directory / "tf_model.h5").name == "tf-h5"
    assert equal(zoo.load(directory), zoo.load(directory, format="tf-h5"))


def test_an_index_never_leads_out_of_its_directory(tmp_path):
    """Shards are files beside the index, whatever it says."""
    directory = shutil.copytree(GOLDEN / "tf-h5-sharded", tmp_path / "tf")
    index = json.loads((directory / "tf_model.h5.index.json").read_text())
    index["weight_map"]["x"] = "../outside.h5"
    (directory / "tf_model.h5.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFile, match="not inside its directory"):
        zoo.load(directory)


@pytest.mark.parametrize("size", [0, 3, 2000, -1])
def test_a_truncated_file_is_refused(directory, size):
    """Weights that were cut at any place are never loaded."""
    weights = directory / "tf_model.h5"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(FormatError):
        zoo.load(directory)


def test_a_link_in_the_weights_is_refused(directory, h5py):
    """What is refused in any HDF5 file is refused here."""
    with h5py.File(directory / "tf_model.h5", "r+") as file:
        file["transformer/x"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(UnsafeFile, match="transformer/x is a link"):
        zoo.load(directory)


def test_other_things_called_so_are_no_weights(directory):
    """A file that is not HDF5 says so, and without a config beside it the directory is not one checkpoint."""
    (directory / "tf_model.h5").write_bytes(b"GGUF" + bytes(5000))
    with pytest.raises(CorruptFile, match="is not a valid HDF5 file"):
        zoo.load(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FormatError, match=r"is a directory with checkpoints in it \(tf_model.h5\)"):
        zoo.load(directory)
