"""Run directories of gpt-2-simple and nshepperd's training, made with TensorFlow's own Saver."""

import json

import numpy as np
import pytest

import zoo
from zoo.containers.tensorflow.bundle import read_bundle
from zoo.errors import FormatError
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = pytest.mark.peers

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=2)
SLOTS = ("Adam", "Adam_1", "Adafactor", "AdamWeightDecay/m", "vr", "vc")


@pytest.fixture
def model():
    return zoo.create(CONFIG, seed=4)


@pytest.fixture
def run(tmp_path, model):
    """checkpoint/run1 with two steps, each with slots of several optimizers, saved by tf.compat.v1.train.Saver."""
    zoo.save(model, tmp_path / "openai", to="openai")
    weights = {name: tensor.load() for name, tensor in read_bundle(tmp_path / "openai" / "model.ckpt").items()}
    directory = tmp_path / "checkpoint" / "run1"
    directory.mkdir(parents=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = []
        for name, value in weights.items():
            variables.append(tf.compat.v1.Variable(value, name=name))
            variables += [tf.compat.v1.Variable(value.sum(axis=-1), name=f"{name}/{slot}") for slot in SLOTS]
        variables.append(tf.compat.v1.Variable(np.int64(7), name="global_step"))
        session.run([variable.initializer for variable in variables])
        saver = tf.compat.v1.train.Saver(variables)
        for step in (500, 1000):
            saver.save(session, str(directory / "model"), global_step=step, write_meta_graph=False)
    hparams = {"n_vocab": 97, "n_ctx": 23, "n_embd": 30, "n_head": 5, "n_layer": 2}
    (directory / "hparams.json").write_text(json.dumps(hparams))
    return directory


def assert_same(path, model, **options):
    found = zoo.load(path, **options).state_dict()
    assert all(bool((found[name] == tensor).all()) for name, tensor in model.state_dict().items())


def test_every_spelling_of_a_run(run, model):
    """The run, a prefix as the tools print it, and an index file all mean the weights."""
    for path in (run, run / "model-500", run / "model-1000", run / "model-500.index"):
        assert_same(path, model)


def test_the_newest_step_is_read_and_the_others_are_named(run):
    """Of several steps the one that `checkpoint` names is taken; slots of any optimizer stay behind."""
    notes = open_path(run)[1].notes

    assert "of several checkpoints model-1000 is read; the others are model-500" in notes
    assert any(note.startswith(f"{28 * len(SLOTS) + 1} tensors of training state") for note in notes)


def test_the_directory_above_names_the_run(run, model):
    """gpt-2-simple's checkpoint/ has runs in it; the refusal names them, and the path with the name works."""
    with pytest.raises(FormatError, match=r"is a directory with checkpoints in it \(run1\); give the path of one"):
        zoo.load(run.parent)
    assert_same(run.parent / "run1", model)


def test_without_hparams_the_shapes_and_the_heads_are_enough(run, model):
    """hparams.json may be lost: the advice to say the heads works."""
    (run / "hparams.json").unlink()
    with pytest.raises(FormatError, match="how many attention heads"):
        zoo.load(run)
    assert_same(run, model, size={"n_heads": 5})


def test_an_object_checkpoint_of_tensorflow_2_is_named_as_such(tmp_path):
    """tf.train.Checkpoint names tensors after attributes, which tell no layout."""
    tf.train.Checkpoint(wte=tf.Variable(np.ones((3, 4), np.float32))).save(str(tmp_path / "ckpt"))
    with pytest.raises(FormatError, match="is an object checkpoint of TensorFlow 2"):
        zoo.load(tmp_path)


def test_a_bundle_of_another_model_is_refused_whatever_the_size(tmp_path):
    """BERT's variables are not reported as a GPT-2 of the size that the user names."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.Variable(np.ones((3, 4), np.float32), name="bert/embeddings/word_embeddings")
        session.run(variable.initializer)
        tf.compat.v1.train.Saver([variable]).save(session, str(tmp_path / "bert_model.ckpt"), write_meta_graph=False)
    for size in (None, "124M"):
        with pytest.raises(FormatError, match="has no embeddings of tokens and positions"):
            zoo.load(tmp_path, size=size)
