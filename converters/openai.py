"""OpenAI's release of GPT-2: a directory with a TensorFlow checkpoint, hparams.json and the vocabulary.

https://github.com/openai/gpt-2 (model.py for names and shapes, download_model.py for the files). Weights of linear
layers have a leading axis of length 1 and lie (in, out): they were 1-D convolutions.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from zoo.containers.files import read_json, write_json
from zoo.containers.tensorflow.bundle import bundle_files, find_prefix, is_index, read_bundle, write_bundle
from zoo.converters.shared.configless import config_from_shapes
from zoo.core.paths import is_there
from zoo.core.tensors import LazyTensor
from zoo.errors import FormatError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap, Field
from zoo.formats.rules import Rule, Table, weight_and_bias
from zoo.formats.vocabulary_notes import unheld_vocabulary
from zoo.text.vocabulary import OPENAI_NAMES, Vocabulary

PROVENANCE_FILE = "zoo_provenance.json"

# What optimizers keep beside the weights under names of their own; a slot is named after its weight: NAME/Adam.
_COUNTERS = re.compile(r"(.*/)?(beta[12]_power|global_step|learning_rate|_CHECKPOINTABLE_OBJECT_GRAPH)(_\d+)?")
_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"  # how tf.train.Checkpoint of TensorFlow 2 ends the names

_norm = partial(weight_and_bias, weight="/g", bias="/b")
_linear = partial(weight_and_bias, how="1 i o -> o i", weight="/w", bias="/b")


class OpenAI(Format):
    """OpenAI's TensorFlow checkpoint."""

    name = "openai"
    summary = "OpenAI's release: TensorFlow checkpoint, hparams.json and vocabulary in a directory"
    is_directory = True
    dtypes = ("float32",)  # what OpenAI's code and the book's loader read
    table = Table(
        (
            Rule("model/wte", "tok_emb.weight"),
            Rule("model/wpe", "pos_emb.weight"),
            *_norm("model/h{i}/ln_1", "blocks.{i}.norm1"),
            *_linear("model/h{i}/attn/c_attn", "blocks.{i}.attn.qkv"),
            *_linear("model/h{i}/attn/c_proj", "blocks.{i}.attn.out"),
            *_norm("model/h{i}/ln_2", "blocks.{i}.norm2"),
            *_linear("model/h{i}/mlp/c_fc", "blocks.{i}.mlp.up"),
            *_linear("model/h{i}/mlp/c_proj", "blocks.{i}.mlp.down"),
            *_norm("model/ln_f", "final_norm"),
        )
    )
    config_map = ConfigMap(
        fields=(
            Field("n_vocab", "vocab_size"),
            Field("n_ctx", "context_length"),
            Field("n_embd", "width"),
            Field("n_head", "n_heads"),
            Field("n_layer", "n_layers"),
        ),
        implied={
            "vocab_rows": 0,
            "inner_width": 0,
            "qkv_bias": True,
            "bias": True,
            "tied": True,
            "norm_eps": 1e-5,
            "activation": "gelu_tanh",
        },
        forgotten=("dropout",),
        passive=frozenset({"precision"}),
    )

    def sniff(self, path: Path) -> bool:
        """Return whether there is the index of a TensorFlow checkpoint."""
        return any(is_index(file) for file in (path.glob("*.index") if path.is_dir() else [path]))

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a directory, a path prefix such as dir/model.ckpt, or an .index file."""
        prefix = find_prefix(path)
        directory = prefix.parent
        files = bundle_files(prefix)
        tensors, state = _split(read_bundle(prefix), path)
        hparams = directory / "hparams.json"
        if is_there(hparams):
            config, notes = self.config_map.read(read_json(hparams), hparams)
            files = [*files, hparams]
        else:
            config, notes = config_from_shapes(self.table, tensors, path, known, self.config_map.implied)
            notes.append("there is no hparams.json; the sizes are those of the tensors")
        others = sorted(file.stem for file in directory.glob("*.index") if file.stem != prefix.name)
        if path.is_dir() and others:
            notes.append(f"of several checkpoints {prefix.name} is read; the others are {', '.join(others[:4])}")
        if state:
            notes.append(f"{len(state)} tensors of training state (such as {state[0]}) are not weights and stay behind")
        return Checkpoint(
            path,
            config,
            tensors,
            vocabulary=Vocabulary.read(directory),
            files=tuple(files),
            provenance=_read_provenance(directory),
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the directory, as TensorFlow's tf.train.load_checkpoint and OpenAI's code read it."""
        path.mkdir()
        write_json(path / "hparams.json", self.config_map.write(checkpoint.config))
        files = checkpoint.vocabulary.pair(OPENAI_NAMES) if checkpoint.vocabulary.is_plain else {}
        for name, content in files.items():
            (path / name).write_bytes(content)
        write_bundle(path / "model.ckpt", checkpoint.tensors, options.on_bytes)
        write_json(path / PROVENANCE_FILE, options.provenance())

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on the parts of the vocabulary that OpenAI's code cannot hold."""
        return unheld_vocabulary(checkpoint.vocabulary, "OpenAI's code")


def _split(tensors: dict[str, LazyTensor], path: Path) -> tuple[dict[str, LazyTensor], list[str]]:
    """Return the tensors of the model, and the names of the optimizer's.

    Raises:
        FormatError: TensorFlow 2 saved them as objects.
    """
    if any(name.endswith(_OBJECT) for name in tensors):
        problem = "is an object checkpoint of TensorFlow 2, which names tensors after Python attributes"
        raise FormatError(path, f"{problem}; save the model with save_pretrained, which writes tf_model.h5")
    known = {name for name in tensors if any(rule.fullmatch(name) for rule in _KNOWN)}
    slots = {name for name in tensors if any(str(parent) in known for parent in PurePosixPath(name).parents)}
    state = [name for name in tensors if name in slots or _COUNTERS.fullmatch(name)]
    return {name: tensor for name, tensor in tensors.items() if name not in state}, state


def _read_provenance(directory: Path) -> dict[str, object]:
    file = directory / PROVENANCE_FILE
    return read_json(file) if is_there(file) else {}


_KNOWN = [re.compile(re.escape(str(rule.theirs)).replace(r"\{i\}", r"\d+")) for rule in OpenAI.table.rules]
