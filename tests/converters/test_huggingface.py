import json
import shutil

import numpy as np
import pytest
import torch

import zoo
from zoo.containers.safetensors import read_safetensors, write_safetensors
from zoo.converters.huggingface import HuggingFace
from zoo.core.tensors import LazyTensor, same_bits
from zoo.errors import CannotHold, CheckpointMismatch, CorruptFile, FormatError, UnsafeFile
from zoo.formats.base import Checkpoint, WriteOptions
from zoo.formats.mapping import to_theirs
from zoo.formats.opening import open_path
from zoo.models.arrays import to_numpy
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary

CONFIG = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=3, inner_width=70, dropout=0.25)


@pytest.fixture
def model():
    return zoo.create(CONFIG, seed=11)


@pytest.fixture
def directory(tmp_path, model):
    """A directory as zoo writes it."""
    zoo.save(model, tmp_path / "hf", to="huggingface")
    return tmp_path / "hf"


def rewrite(directory, change):
    """Replace the weights of a directory by what `change` makes of them."""
    weights = directory / "model.safetensors"
    tensors, _ = read_safetensors(weights)
    write_safetensors(directory / "new", change(dict(tensors)), {"format": "pt"})
    (directory / "new").replace(weights)


def equal(a, b):
    return a.config == b.config and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_names_and_orientation_are_those_of_transformers(directory, model):
    """Linear weights lie (in, out), the square one too, and names have the prefix that transformers saves."""
    tensors, _ = read_safetensors(directory / "model.safetensors")
    square = model.blocks[1].attn.out.weight.detach().numpy()

    np.testing.assert_array_equal(square.T, tensors["transformer.h.1.attn.c_proj.weight"].load())
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (30, 90)
    assert "lm_head.weight" not in tensors


def test_config_json_says_everything_twice_that_readers_disagree_about(directory):
    """n_ctx and n_positions, the exact spelling of the activation, and the tokens, as no vocabulary tells them."""
    config = json.loads((directory / "config.json").read_text())

    assert tuple(
        config[key] for key in ("n_ctx", "n_positions", "n_inner", "activation_function", "tie_word_embeddings")
    ) == (23, 23, 70, "gelu_new", True)
    assert (config["model_type"], config["architectures"], config["attn_pdrop"]) == ("gpt2", ["GPT2LMHeadModel"], 0.25)
    assert config["zoo_vocab_size"] == config["vocab_size"] == 97


def test_gpt2s_tokenizer_files_are_openais_byte_for_byte(tmp_path):
    """vocab.json and merges.txt of a GPT-2 model are encoder.json and vocab.bpe."""
    import hashlib

    zoo.save(zoo.create("test-tiny"), tmp_path / "hf", to="huggingface")
    found = [
        hashlib.sha256((tmp_path / "hf" / name).read_bytes()).hexdigest()[:8] for name in ("vocab.json", "merges.txt")
    ]

    assert found == ["19613966", "1ce16647"]
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text()) == {
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }


def test_names_without_a_prefix_and_old_buffers_are_understood(directory, model):
    """The original gpt2 has no prefix, and masks of float32; old files have masked_bias too."""
    mask = np.tril(np.ones((23, 23), np.float32))[None, None]

    def as_the_original(tensors):
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        bare |= {f"h.{i}.attn.bias": LazyTensor.of(mask) for i in range(3)}
        return bare | {"h.2.attn.masked_bias": LazyTensor.of(np.array(-1e4, np.float32))}

    rewrite(directory, as_the_original)

    assert equal(model, zoo.load(directory))


def test_a_mask_that_is_not_causal_is_not_dropped(directory):
    """A buffer that differs from what the config says may mean something; it stops the conversion."""
    rewrite(directory, lambda t: {**t, "transformer.h.1.attn.bias": LazyTensor.of(np.ones((1, 1, 23, 23), np.float32))})
    with pytest.raises(CheckpointMismatch, match=r"h.1.attn.bias is not a buffer that follows from the config"):
        zoo.load(directory)


def test_an_untied_head_stays_untied(tmp_path):
    """A model with a head of its own writes it, says so in config.json, and comes back with it."""
    model = zoo.create(CONFIG.replace(tied=False), seed=5)
    zoo.save(model, tmp_path / "hf", to="huggingface")

    assert equal(model, zoo.load(tmp_path / "hf"))


def test_exact_gelu_and_other_epsilons_are_kept(tmp_path):
    """Cerebras-GPT's activation and any layer-norm epsilon go through config.json and back."""
    model = zoo.create(CONFIG.replace(activation="gelu", norm_eps=3e-6))
    zoo.save(model, tmp_path / "hf", to="huggingface")

    assert equal(model, zoo.load(tmp_path / "hf"))


def test_a_model_without_biases_is_refused(tmp_path):
    """Transformers' GPT-2 always has biases."""
    with pytest.raises(CannotHold, match="no place for qkv_bias False"):
        zoo.save(zoo.create(CONFIG.replace(qkv_bias=False)), tmp_path / "hf", to="huggingface", strict=True)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model_type", "gptj", "model_type is 'gptj'"),
        ("activation_function", "relu", "activation_function is 'relu'; zoo knows 'gelu_new'"),
        ("n_embd", 31, r"n_heads \(5\) must divide width \(31\)"),
        ("n_layer", "3", "n_layers must be of type int, not '3'"),
        ("n_head", [5], "n_heads must be of type int"),
    ],
)
def test_a_config_that_is_no_gpt2_is_refused_with_its_key(directory, key, value, words):
    """What zoo's model cannot be is refused by name, not approximated."""
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(FormatError, match=words):
        zoo.load(directory)


def test_different_dropouts_are_noted(directory):
    """Zoo has one dropout; a config with several is read with a note that says which is kept."""
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "attn_pdrop": 0.0}))

    (note,) = open_path(directory)[1].notes

    assert (
        note == "config.json has resid_pdrop 0.25, embd_pdrop 0.25, attn_pdrop 0.0; zoo has one dropout and keeps 0.25"
    )


def test_missing_and_extra_tensors_are_both_named(directory):
    """A tensor that is gone and one that is new are listed together."""

    def change(tensors):
        del tensors["transformer.h.1.ln_2.bias"]
        return {**tensors, "transformer.h.9.new": LazyTensor.of(np.ones(2, np.float32))}

    rewrite(directory, change)
    with pytest.raises(
        CheckpointMismatch, match=r"h.1.ln_2.bias \(30,\) is missing; tensor h.9.new \(2,\) is unexpected"
    ):
        zoo.load(directory)


def shard(directory, n):
    """Spread the weights of a directory over n files with an index, round robin."""
    tensors, _ = read_safetensors(directory / "model.safetensors")
    weight_map = {name: f"model-{i % n}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        write_safetensors(directory / file, part, {"format": "pt"})
    (directory / "model.safetensors").unlink()
    return weight_map


def write_index(directory, weight_map):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_read_as_one(directory, model):
    """An index and its shards are the same model as one file."""
    write_index(directory, shard(directory, 3))

    assert equal(model, zoo.load(directory))


def test_a_tensor_that_two_shards_have_is_refused(directory):
    """Which of two tensors of one name is meant nobody knows."""
    weight_map = shard(directory, 2)
    first, _ = read_safetensors(directory / "model-0.safetensors")
    second, _ = read_safetensors(directory / "model-1.safetensors")
    both = {**second, "transformer.wte.weight": first["transformer.wte.weight"]}
    write_safetensors(directory / "new", both, {"format": "pt"})
    (directory / "new").replace(directory / "model-1.safetensors")
    write_index(directory, weight_map)
    with pytest.raises(
        CheckpointMismatch, match=r"transformer.wte.weight is in model-1.safetensors and in another shard"
    ):
        zoo.load(directory)


def test_a_limit_of_size_spreads_the_weights(tmp_path, model):
    """Shards stay below the limit, but for a tensor that is larger alone; index and shards are the same model."""
    zoo.save(model, tmp_path / "m.safetensors")
    report = zoo.convert(tmp_path / "m.safetensors", tmp_path / "hf", to="huggingface", max_shard_bytes=12_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    sizes = [sum(t.nbytes for t in read_safetensors(tmp_path / "hf" / name)[0].values()) for name in shards]

    assert report.verified
    assert f"model-00001-of-{len(shards):05}.safetensors" == shards[0]
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    assert 12_000 >= max(sizes)
    assert report.bytes_written == sum(sizes) == index["metadata"]["total_size"]
    assert equal(model, zoo.load(tmp_path / "hf"))


def test_a_padded_vocabulary_is_seen_by_the_tokenizer(tmp_path):
    """A config.json knows only rows; of them as many are tokens as the vocabulary has."""
    config = CONFIG.replace(vocab_size=50257, vocab_rows=50304)
    model = zoo.create(config, seed=5)
    ours = {name: LazyTensor.of(to_numpy(tensor)) for name, tensor in model.state_dict().items()}
    theirs = to_theirs(HuggingFace.table, ours, config)
    checkpoint = Checkpoint(tmp_path, config, theirs, vocabulary=Vocabulary.gpt2())
    HuggingFace().write(tmp_path / "hf", checkpoint, WriteOptions())

    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 50304
    assert equal(model, zoo.load(tmp_path / "hf"))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a\0b", "..", "", 7, "sub/x.safetensors"])
def test_an_index_never_leads_out_of_its_directory(directory, name):
    """Shard names that are not plain file names are refused, whether or not such files exist."""
    weight_map = shard(directory, 2)
    shutil.copy(directory / "model-0.safetensors", directory.parent / "outside.safetensors")
    write_index(directory, {**weight_map, "transformer.wte.weight": name})
    with pytest.raises(UnsafeFile, match="not inside its directory"):
        zoo.load(directory)


def test_a_missing_shard_is_named(directory):
    """A shard that was not downloaded is an error with its name."""
    write_index(directory, shard(directory, 2))
    (directory / "model-1.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model-1.safetensors: cannot be read"):
        zoo.load(directory)


def test_an_lfs_pointer_says_so(directory):
    """Weights that git-lfs has not fetched are recognised."""
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(FormatError, match="Git LFS pointer"):
        zoo.load(directory)


@pytest.mark.parametrize("size", [3, 100, 20_000, -1])
def test_a_truncated_file_is_refused(directory, size):
    """Weights that were cut at any place are never loaded."""
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises((CorruptFile, FormatError)):
        zoo.load(directory)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_pytorch_model_bin_is_read(directory, model, kind):
    """Weights pickled by torch, in its present or its former container, are the same model."""
    tensors, _ = read_safetensors(directory / "model.safetensors")
    state = {name: torch.from_numpy(tensor.load().copy()) for name, tensor in tensors.items()}
    torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "zip")
    (directory / "model.safetensors").unlink()

    assert equal(model, zoo.load(directory))


@pytest.mark.peers
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"activation": "gelu", "norm_eps": 1e-6}])
def test_transformers_loads_what_zoo_writes(tmp_path, changes, caplog):
    """Transformers loads the directory without a warning, and its logits in float64 differ by less than 1e-12."""
    transformers = pytest.importorskip("transformers")
    model = zoo.create(CONFIG.replace(**changes), seed=7, init="book")
    zoo.save(model, tmp_path / "hf", to="huggingface")
    peer, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    ids = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])
    with torch.no_grad():
        expected = peer.eval().double()(ids).logits
        found = model.eval().double()(ids)

    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert not any(info.values()), info
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.peers
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": False}, {"activation_function": "gelu", "n_inner": 71}]
)
def test_zoo_loads_what_transformers_saves(tmp_path, changes):
    """A model made and saved by transformers gives the same logits in zoo, and keeps every bit of its weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=97, n_positions=23, n_embd=30, n_head=5, n_layer=3, **changes)
    peer = transformers.GPT2LMHeadModel(config)
    peer.save_pretrained(tmp_path / "hf")
    model = zoo.load(tmp_path / "hf")
    ids = torch.tensor([[5, 90, 33, 2, 71, 8, 96]])
    with torch.no_grad():
        expected, found = peer.eval().double()(ids).logits, model.double()(ids)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.peers
def test_transformers_tokenizer_reads_the_vocabulary(tmp_path):
    """The tokenizer files make transformers' tokenizer split text as zoo's does."""
    transformers = pytest.importorskip("transformers")
    model = zoo.create("test-tiny")
    zoo.save(model, tmp_path / "hf", to="huggingface")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "Every effort moves you — naïvely, 12345 times!\n\n  <|endoftext|>\tÀ bientôt 🙂"

    assert model.tokenizer.encode(text) == peer(text)["input_ids"]


@pytest.mark.peers
def test_zoo_reads_the_tokenizer_that_transformers_saves(tmp_path):
    """transformers 5 saves tokenizer.json alone; zoo finds GPT-2's vocabulary, or another one, in it."""
    transformers = pytest.importorskip("transformers")
    zoo.save(zoo.create("test-tiny"), tmp_path / "hf", to="huggingface")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "hf" / name).unlink()
    peer.save_pretrained(tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    assert not (tmp_path / "hf" / "vocab.json").exists()
    assert open_path(tmp_path / "hf")[1].vocabulary.is_gpt2

    peer.add_tokens(["<|pad|>"], special_tokens=True)
    peer.save_pretrained(tmp_path / "hf")

    vocabulary = open_path(tmp_path / "hf")[1].vocabulary
    assert vocabulary.contents.added["<|pad|>"].id == 50257


@pytest.mark.peers
@pytest.mark.parametrize("safe", [True, False])
def test_transformers_and_zoo_share_shards(tmp_path, model, safe):
    """transformers loads the shards that zoo writes, and zoo those that transformers or torch make of them."""
    transformers = pytest.importorskip("transformers")
    zoo.save(model, tmp_path / "m.safetensors")
    zoo.convert(tmp_path / "m.safetensors", tmp_path / "hf", to="huggingface", max_shard_bytes=30_000)
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    if safe:
        peer.save_pretrained(tmp_path / "again", max_shard_size="30KB")
    else:  # transformers 5 writes no .bin any more; older ones wrote this
        (tmp_path / "again").mkdir()
        shutil.copy(tmp_path / "hf" / "config.json", tmp_path / "again")
        state = list(peer.transformer.state_dict(prefix="transformer.").items())
        parts = {"pytorch_model-1.bin": dict(state[:20]), "pytorch_model-2.bin": dict(state[20:])}
        for name, part in parts.items():
            torch.save(part, tmp_path / "again" / name)
        weight_map = {tensor: name for name, part in parts.items() for tensor in part}
        (tmp_path / "again" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    again = zoo.load(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_round_trip_keeps_every_bit_of_half_precision(tmp_path, model):
    """float16 and bfloat16 weights go in and come out as they were."""
    for dtype in (torch.float16, torch.bfloat16):
        half = zoo.create(CONFIG, seed=2, dtype=dtype)
        zoo.save(half, tmp_path / f"{dtype}", to="huggingface")

        assert equal(half, zoo.load(tmp_path / f"{dtype}"))
        assert str(dtype).endswith(json.loads((tmp_path / f"{dtype}" / "config.json").read_text())["dtype"])


def test_reading_the_safetensors_package_agrees(directory):
    """The safetensors package reads the same tensors from the file that zoo's reader does."""
    from safetensors.numpy import load_file

    theirs, (ours, _) = load_file(directory / "model.safetensors"), read_safetensors(directory / "model.safetensors")

    assert set(theirs) == set(ours)
    assert all(same_bits(theirs[name], ours[name].load()) for name in ours)
