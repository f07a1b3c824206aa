import hashlib
import json
import os

import numpy as np
import pytest
import torch

import zoo
from zoo.containers.tensorflow.bundle import read_bundle, write_bundle
from zoo.core.tensors import LazyTensor, same_bits
from zoo.errors import CannotHold, CheckpointMismatch, ConfigError, CorruptFile, FormatError, UnsafeFile
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3)


@pytest.fixture
def model():
    return zoo.create(CONFIG, seed=11)


@pytest.fixture
def directory(tmp_path, model):
    """A directory as zoo writes it."""
    zoo.save(model, tmp_path / "openai", to="openai")
    return tmp_path / "openai"


def equal(a, b):
    return a.config == b.config and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def rewrite(directory, change):
    """Replace the tensors of a directory by what `change` makes of them."""
    tensors = {name: LazyTensor.of(t.load().copy()) for name, t in read_bundle(directory / "model.ckpt").items()}
    for file in directory.glob("model.ckpt*"):
        file.unlink()
    write_bundle(directory / "model.ckpt", change(tensors))


def test_a_model_comes_back_as_it_was(directory, model):
    """Every parameter survives OpenAI's format, bit for bit."""
    assert equal(model, zoo.load(directory))


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.index"])
def test_a_prefix_or_an_index_is_as_good_as_the_directory(directory, model, name):
    """What TensorFlow calls a checkpoint, a path prefix, opens with --from; the index file opens by itself."""
    assert equal(model, zoo.load(directory / "model.ckpt.index"))
    assert open_path(directory / name, format="openai")[1].config == CONFIG


def test_names_shapes_and_small_files_are_openais(tmp_path):
    """Linear weights have a leading axis of 1; checkpoint and hparams.json of 124M are OpenAI's, byte for byte."""
    from zoo.containers.files import write_json
    from zoo.converters.openai import OpenAI

    shapes = OpenAI.table.shapes(zoo.get_config("124M"))
    write_json(tmp_path / "hparams.json", OpenAI.config_map.write(zoo.get_config("124M")))
    sha256 = hashlib.sha256((tmp_path / "hparams.json").read_bytes()).hexdigest()

    assert shapes["model/h11/attn/c_attn/w"] == (1, 768, 2304)
    assert len(shapes) == 148
    assert sha256 == "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"


def test_the_checkpoint_file_is_openais_byte_for_byte(directory):
    """The file that names the newest checkpoint has the published SHA-256."""
    sha256 = hashlib.sha256((directory / "checkpoint").read_bytes()).hexdigest()

    assert sha256 == "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"


def test_an_axis_of_length_one_is_not_squeezed_away(tmp_path):
    """A context of one token makes other axes of length 1; only the leading one of a weight is dropped."""
    model = zoo.create(CONFIG.replace(context_length=1, n_layers=1, width=5, inner_width=0), seed=2)
    zoo.save(model, tmp_path / "one", to="openai")

    assert equal(model, zoo.load(tmp_path / "one"))


def test_training_state_stays_behind_and_is_reported(directory, model):
    """Adam's slots and the step counter are not weights: they are left out with a note."""

    def add(tensors):
        slots = {f"{name}/Adam": tensor for name, tensor in tensors.items()}
        return {**tensors, **slots, "global_step": LazyTensor.of(np.array(7, np.int64))}

    rewrite(directory, add)
    _, checkpoint = open_path(directory)

    assert checkpoint.notes == ("41 tensors of training state (such as global_step) are not weights and stay behind",)
    assert equal(model, zoo.load(directory))


def test_a_directory_without_hparams_needs_a_size(directory, model):
    """Without hparams.json the shapes tell all but the heads; a size that contradicts them is refused."""
    (directory / "hparams.json").unlink()
    with pytest.raises(FormatError, match="does not say how many attention heads .* --size"):
        zoo.load(directory)
    with pytest.raises(ConfigError, match="it has width 30 .not 60"):
        zoo.load(directory, size=CONFIG.replace(width=60))

    assert equal(model, zoo.load(directory, size=CONFIG))


def test_a_wrong_size_names_the_difference(directory):
    """--size 355M on a small model says what differs."""
    with pytest.raises(ConfigError, match="is not 355M: it has vocab_size 97 .not 50257"):
        zoo.load(directory, size="355M")


def test_hparams_that_contradict_the_tensors_are_refused(directory):
    """A config of another width lists every tensor that does not fit."""
    hparams = json.loads((directory / "hparams.json").read_text())
    (directory / "hparams.json").write_text(json.dumps({**hparams, "n_embd": 60}))
    with pytest.raises(CheckpointMismatch, match="and 30 more") as caught:
        zoo.load(directory)

    assert "tensor model/wte has shape (97, 30) where the config asks for (97, 60)" in caught.value.problems


def test_a_flipped_bit_is_found_and_its_tensor_named(directory, tmp_path):
    """The CRC of every tensor is checked: one wrong bit stops the conversion and leaves nothing."""
    data = directory / "model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"data-00000-of-00001.*model/h"):
        zoo.convert(directory, tmp_path / "out.safetensors")

    assert os.listdir(tmp_path) == ["openai"]


def test_a_truncated_data_file_is_refused_before_writing(directory, tmp_path):
    """A download that stopped half way is told by lengths alone."""
    data = directory / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(CorruptFile, match="data-00000-of-00001"):
        zoo.convert(directory, tmp_path / "out.safetensors")

    assert os.listdir(tmp_path) == ["openai"]


@pytest.mark.parametrize(
    "written",
    ["{here}/model.ckpt", "/gone/run1/model.ckpt", "C:\\\\gone\\\\run1\\\\model.ckpt", "../openai/model.ckpt"],
)
def test_a_checkpoint_file_of_a_directory_that_moved(directory, written):
    """TensorFlow writes the path that it was given, of Windows too; the last part names the files in this directory."""
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{written.format(here=directory)}"\n')

    assert zoo.load(directory).config == CONFIG


def test_a_checkpoint_file_never_leads_elsewhere(directory):
    """A name of which this directory has no files is refused, wherever it points."""
    for name in ("../other/model", "/etc/passwd"):
        (directory / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
        with pytest.raises(UnsafeFile, match="not to a name in its own directory"):
            zoo.load(directory)


def test_missing_and_extra_tensors_are_named(directory):
    """A tensor too few and one too many are both in the message."""

    def change(tensors):
        tensors["model/h9/strange"] = tensors.pop("model/ln_f/b")
        return tensors

    rewrite(directory, change)
    with pytest.raises(CheckpointMismatch, match=r"model/ln_f/b \(30,\) is missing; tensor model/h9/strange \(30,\)"):
        zoo.load(directory)


@pytest.mark.parametrize(
    "changes", [{"tied": False}, {"bias": False}, {"activation": "gelu"}, {"vocab_rows": 101}, {"inner_width": 70}]
)
def test_what_the_format_has_no_word_for_is_refused(tmp_path, changes):
    """OpenAI's code knows one kind of model; anything else is refused by name."""
    with pytest.raises(CannotHold, match=f"no place for {next(iter(changes))}"):
        zoo.save(zoo.create(CONFIG.replace(**changes)), tmp_path / "out", to="openai", strict=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.peers
def test_tensorflow_reads_what_zoo_writes(directory, model):
    """tf.train.load_checkpoint finds OpenAI's names with the model's values, transposed where OpenAI's are."""
    tf = pytest.importorskip("tensorflow")
    reader = tf.train.load_checkpoint(str(directory))
    square = model.blocks[2].attn.out.weight.detach().numpy()

    np.testing.assert_array_equal(square.T[None], reader.get_tensor("model/h2/attn/c_proj/w"))
    np.testing.assert_array_equal(model.tok_emb.weight.detach().numpy(), reader.get_tensor("model/wte"))
    assert len(reader.get_variable_to_shape_map()) == 2 + 3 * 12 + 2


@pytest.mark.peers
def test_a_checkpoint_of_tensorflow_goes_through_every_format_unchanged(tmp_path):
    """Openai -> zoo -> huggingface -> book -> openai: TensorFlow's own reader finds every bit where it was."""
    tf = pytest.importorskip("tensorflow")
    from make_checkpoint import write

    config = zoo.get_config("test-tiny")
    write(config, tmp_path / "first", seed=4)
    zoo.convert(tmp_path / "first", tmp_path / "a.safetensors", size="test-tiny")
    zoo.convert(tmp_path / "a.safetensors", tmp_path / "b", to="huggingface")
    zoo.convert(tmp_path / "b", tmp_path / "c.pth")
    zoo.convert(tmp_path / "c.pth", tmp_path / "last", to="openai")
    first, last = (tf.train.load_checkpoint(str(tmp_path / name)) for name in ("first", "last"))

    assert first.get_variable_to_shape_map() == last.get_variable_to_shape_map()
    for name in first.get_variable_to_shape_map():
        assert same_bits(first.get_tensor(name), last.get_tensor(name))
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "encoder.json", "vocab.bpe", "hparams.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "last" / name).read_bytes()
