"""Write the valid checkpoints that fuzzing begins with: `python -m tests.fuzz.make_corpus`.

It needs torch and TensorFlow, and the folder tests on PYTHONPATH. The files are in the repository, so that fuzzing
itself needs neither and an input can be made again from its number. They are as small as they can be and have every
part that a reader looks at.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import zoo
from zoo.converters.zoo_file import ZooFile
from zoo.formats.opening import open_path
from zoo.models.gpt2.model import GPTModel
from zoo.text.vocabulary import Vocabulary
from zoo.train.run.sharded_checkpoint import save_sharded
from zoo.train.step.lora import LoRA, add_lora, save_adapter

from .cases import CORPUS, SIZE

WIDE = zoo.GPTConfig(vocab_size=6, vocab_rows=7, context_length=3, width=32, n_heads=2, n_layers=1, inner_width=32)
ENCODER = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4, "<pad>": 5}
VOCABULARY = Vocabulary.byte_level(json.dumps(ENCODER).encode(), b"#version: 0.2\na b\n", b'{"<pad>": 5}')


def seed(reader, name):
    """An empty place for one checkpoint."""
    path = CORPUS / reader / name
    path.mkdir(parents=True)
    return path


def model(config, dtype=torch.float32):
    """A model whose weights are all different."""
    made = GPTModel(config, zoo.Tokenizer(VOCABULARY))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made.to(dtype)


def write_files(work, source):
    """Formats of one file."""
    shutil.copy(source, seed("safetensors", "float32") / "m.safetensors")
    zoo.save(model(SIZE, torch.bfloat16), seed("safetensors", "bfloat16") / "m.safetensors")
    zoo.convert(source, seed("safetensors", "book") / "m.safetensors", to="book")
    for kind in ("int8", "int4"):
        zoo.convert(source, seed("quantised", kind) / "m.safetensors", dtype=kind)
    found, checkpoint = open_path(source)
    assert isinstance(found, ZooFile)
    found.write_compact(seed("quantised", "rows") / "m.safetensors", checkpoint)
    zoo.convert(source, seed("gguf", "float32") / "m.gguf")
    zoo.save(model(WIDE), work / "wide.safetensors")
    zoo.convert(work / "wide.safetensors", seed("gguf", "q5_0") / "m.gguf", dtype="q5_0")
    zoo.convert(source, seed("llmc", "float32") / "m.bin")
    zoo.convert(source, seed("llmc", "bfloat16") / "m.bin", dtype="bfloat16")


def write_directories(source):
    """Formats of several files."""
    for reader, to in (
        ("tf", "openai"),
        ("shards", "huggingface"),
        ("json", "huggingface"),
        ("json", "openai"),
        ("hdf5", "keras-hub"),
        ("flax", "flax"),
    ):
        place = seed(reader, to)
        zoo.convert(source, place, to=to, force=True, max_shard_bytes=500 if reader == "shards" else None)
    write_tokenizer_json(CORPUS / "json" / "huggingface")
    adapter = seed("peft", "lora")
    shutil.copy(source, adapter / "base.safetensors")
    (adapter / "adapter").mkdir()
    adapted = add_lora(model(SIZE), LoRA(rank=3))
    save_adapter(adapted, adapter / "adapter", force=True)
    config = json.loads((adapter / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "../base.safetensors"
    (adapter / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    made = model(SIZE)
    save_sharded(seed("sharded", "one"), made, torch.optim.SGD(made.parameters()))


def trim(path):
    """Take the room for provenance out of a safetensors file: most mutations would fall into it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def write_tokenizer_json(directory):
    """What transformers 5 saves instead of two files."""
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (directory / name).unlink()
    content = {
        "added_tokens": [{"id": 5, "content": "<pad>"}],
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": ENCODER, "merges": [["a", "b"]]},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))


def write_torch_files(work, source):
    """What torch.save writes, in both formats, for the layouts that lie in such files; and one file of zoo's."""
    for to in ("nanogpt", "mingpt", "book", "megatron"):
        zoo.convert(source, work / to, to=to)
        tree = torch.load(work / to, weights_only=True)
        torch.save(tree, seed("torch", to) / "m.pt")
        torch.save(tree, seed("legacy", to) / "m.pt", _use_new_zipfile_serialization=False)
    shutil.copy(work / "nanogpt", seed("torch", "nanogpt-zoo") / "m.pt")


def write_tensorflow():
    """A checkpoint of TensorFlow's own, with a partitioned variable and byte strings."""
    import tensorflow as tf

    v1 = tf.compat.v1
    place = seed("tf", "tensorflow")
    with tf.Graph().as_default(), v1.Session() as session:
        normal, halves = tf.random_normal_initializer(seed=1), v1.fixed_size_partitioner(2)
        v1.get_variable("model/wte", (6, 4), initializer=normal, partitioner=halves)
        v1.get_variable("words", initializer=np.array([b"one", b"", b"three"]))
        v1.get_variable("global_step", initializer=np.int64(7))
        session.run(v1.global_variables_initializer())
        v1.train.Saver(sharded=True).save(session, str(place / "model.ckpt"), write_meta_graph=False)
    for name in ("hparams.json", "checkpoint"):  # the latter has the path of this directory in it
        shutil.copy(CORPUS / "tf" / "openai" / name, place)


if __name__ == "__main__":
    shutil.rmtree(CORPUS, ignore_errors=True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        zoo.save(model(SIZE), Path(name) / "small.safetensors")
        write_files(Path(name), Path(name) / "small.safetensors")
        write_directories(Path(name) / "small.safetensors")
        write_torch_files(Path(name), Path(name) / "small.safetensors")
        write_tensorflow()
    for path in CORPUS.rglob("*.safetensors"):
        trim(path)
