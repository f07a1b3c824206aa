import json
import os
import struct

import gguf_file
import numpy as np
import oracle
import pytest
import torch
from gguf_file import build, parse
from hypothesis import HealthCheck, example, given, settings
from small import random_ids, small_model
from strategies import configs

import zoo
from zoo import make_plan
from zoo.containers.gguf.reader import read_gguf
from zoo.converters.gguf import _size_label
from zoo.converters.zoo_file import ZooFile
from zoo.core.tensors import DTYPES, LazyTensor
from zoo.errors import CannotHold, CorruptFile, FormatError
from zoo.formats.base import Checkpoint, WriteOptions
from zoo.formats.mapping import same_tensor, to_ours, to_theirs
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format, get_format
from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import ALPHABET
from zoo.text.vocabulary import Vocabulary

ODD = GPTConfig(
    vocab_size=97,
    context_length=23,
    width=30,
    n_heads=5,
    n_layers=3,
    inner_width=70,
    dropout=0.3,
    norm_eps=3e-6,
)
WIDE = GPTConfig(vocab_size=97, context_length=23, width=64, n_heads=4, n_layers=2, inner_width=96, tied=False)
HELD = {"vocab_rows": 0, "bias": True, "qkv_bias": True, "activation": "gelu_tanh"}
NAMES = {
    "token_embd": "tok_emb",
    "position_embd": "pos_emb",
    "attn_norm": "norm1",
    "attn_qkv": "attn.qkv",
    "attn_output": "attn.out",
    "ffn_norm": "norm2",
    "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
    "output_norm": "final_norm",
    "output": "head",
}


def zoo_name(name):
    """Return the name in zoo of a parameter that llama.cpp calls so."""
    *block, layer, kind = name.split(".")
    return ".".join([*(["blocks", block[1]] if block else []), NAMES[layer], kind])


def write(path, config, tensors, vocabulary=None, provenance=dict):
    """Write tensors, which have zoo's names, as they are."""
    theirs = to_theirs(get_format("gguf").table, tensors, config)
    checkpoint = Checkpoint(path, config, theirs, vocabulary=vocabulary or Vocabulary())
    get_format("gguf").write(path, checkpoint, WriteOptions(provenance=provenance))


def foreign(model, **changes):
    """A file as llama.cpp's converter makes it of a float16 model; changes are keys (None removes one)."""
    c = model.config
    keys = {
        "general.architecture": "gpt2",
        "gpt2.block_count": c.n_layers,
        "gpt2.context_length": c.context_length,
        "gpt2.embedding_length": c.width,
        "gpt2.feed_forward_length": c.inner_width,
        "gpt2.attention.head_count": c.n_heads,
        "gpt2.attention.layer_norm_epsilon": c.norm_eps,
        "general.quantization_version": 2,
        **{key.replace("__", "."): changed for key, changed in changes.items()},
    }
    state = {name: array.detach().numpy() for name, array in model.state_dict().items()}
    tensors = {}
    for name in get_format("gguf").table.shapes(c):
        array = state[zoo_name(name)]
        wide = array.ndim == 1 or name == "position_embd.weight"
        array = array.astype(np.float32 if wide else np.float16)
        tensors[name] = ("F32" if wide else "F16", array.shape, array.tobytes())
    return {key: value for key, value in keys.items() if value is not None}, tensors


@pytest.fixture
def model():
    return small_model(ODD, dtype=torch.float32)


@pytest.fixture
def path(tmp_path, model):
    zoo.save(model, tmp_path / "m.gguf")
    return tmp_path / "m.gguf"


def test_an_independent_parser_finds_every_parameter(path, model):
    """The file holds llama.cpp's names, (out, in), one behind the other, and the keys that llama.cpp reads."""
    version, keys, tensors = parse(path.read_bytes())

    assert version == 3
    assert next(iter(keys)) == "general.architecture"
    expected = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "GPT-2",
        "general.size_label": "28K",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gpt2.context_length": 23,
        "gpt2.embedding_length": 30,
        "gpt2.feed_forward_length": 70,
        "gpt2.block_count": 3,
        "gpt2.attention.head_count": 5,
        "gpt2.attention.layer_norm_epsilon": float(np.float32(3e-6)),
        "gpt2.vocab_size": 97,
        "tokenizer.ggml.model": "none",
    }
    assert expected == {key: value for key, value in keys.items() if not key.startswith("zoo.")}
    state = model.state_dict()
    for name, (kind, shape, data) in tensors.items():
        assert kind == "F32"
        np.testing.assert_array_equal(state.pop(zoo_name(name)), np.frombuffer(data, "<f4").reshape(shape))
    assert not state


def test_the_parsed_weights_give_the_models_logits(path, model):
    """A GPT-2 written from the papers, run on what the independent parser found, agrees with the model."""
    ids = random_ids(1, 23)
    found = {
        zoo_name(name): np.frombuffer(t[2], "<f4").reshape(t[1]) for name, t in parse(path.read_bytes())[2].items()
    }

    # Float32 against float64, logits up to 8; a transposed matrix is off by more than one.
    expected = oracle.logits(found, ids[0].tolist(), n_layers=3, n_heads=5, norm_eps=3e-6)
    np.testing.assert_allclose(model(ids)[0].detach().numpy(), expected, atol=1e-4)


def test_the_bytes_of_a_file_never_change(tmp_path):
    """A model of one layer whose values count up is these bytes."""
    config = GPTConfig(vocab_size=3, context_length=2, width=2, n_heads=1, n_layers=1, dropout=0.5)
    ours, start = {}, 0
    for name, shape in config.parameter_shapes().items():
        size = int(np.prod(shape))
        ours[name] = LazyTensor.of(np.arange(start, start + size, dtype=np.float32).reshape(shape))
        start += size
    write(tmp_path / "m.gguf", config, ours, provenance=lambda: {"from": "here"})
    data = (tmp_path / "m.gguf").read_bytes()

    assert data[:24] == b"GGUF" + struct.pack("<IQQ", 3, 16, 18)
    pairs = (
        gguf_file.text("general.architecture") + bytes.fromhex("08000000 0400000000000000") + b"gpt2",
        gguf_file.text("gpt2.vocab_size") + bytes.fromhex("04000000 03000000"),
        gguf_file.text("gpt2.attention.layer_norm_epsilon") + bytes.fromhex("06000000 acc52737"),
        gguf_file.text("zoo.tied") + bytes.fromhex("07000000 01"),
        gguf_file.text("zoo.dropout") + bytes.fromhex("0c000000 000000000000e03f"),
    )
    for pair in pairs:
        assert data.count(pair) == 1
    last = gguf_file.text("zoo.provenance") + struct.pack("<IQ", 8, 16384) + b'{"from": "here"}'.ljust(16384)
    first = gguf_file.text("token_embd.weight") + struct.pack("<I2QIQ", 2, 2, 3, 0, 0)
    assert last + first in data
    assert gguf_file.text("blk.0.ffn_up.weight") + struct.pack("<I2QI", 2, 2, 8, 0) in data
    body = len(data) - 13 * 32 - 3 * 64  # qkv, ffn_up and ffn_down take more than 32 bytes
    embedding, positions = np.arange(6, dtype="<f4").tobytes(), np.arange(6, 10, dtype="<f4").tobytes()
    assert embedding.ljust(32, b"\0") + positions.ljust(32, b"\0") == data[body : body + 64]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(config=configs(**HELD))
@example(config=ODD)
@example(config=WIDE)
@example(config=ODD.replace(norm_eps=1.2345678901234567e-5))
def test_there_and_back_nothing_changes(tmp_path, config):
    """The way zoo -> gguf -> zoo keeps every bit of every dtype, NaN and -0.0 too, and the whole config."""
    generator = np.random.default_rng(7)
    for dtype in ("float32", "float16", "bfloat16"):
        bits = np.dtype(f"u{DTYPES[dtype].itemsize}")
        ours = {
            name: LazyTensor.of(generator.integers(0, 1 << 8 * bits.itemsize, shape, bits).view(DTYPES[dtype]))
            for name, shape in config.parameter_shapes().items()
        }
        write(tmp_path / "b.gguf", config, ours)
        found, checkpoint = open_path(tmp_path / "b.gguf")
        again, _ = found.to_ours(checkpoint)

        assert config == checkpoint.config
        assert list(ours) == list(again)
        assert all(same_tensor(ours[name], again[name]) for name in ours)


def test_a_mixture_of_dtypes_comes_back_as_it_was(tmp_path, model):
    """Each tensor keeps its own dtype, and the conversion there and back is verified and called lossless."""
    dtypes = [torch.float32, torch.float16, torch.bfloat16]
    for i, parameter in enumerate(model.parameters()):
        parameter.data = parameter.data.to(dtypes[i % 3])
    zoo.save(model, tmp_path / "a.safetensors")
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    zoo.convert(tmp_path / "b.gguf", tmp_path / "c.safetensors")
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1].tensors for name in "ac")

    assert there.lossless
    assert there.verified
    assert all(same_tensor(a[name], c[name]) for name in a)


@pytest.mark.parametrize(("dtype", "kind", "file_type"), [("float16", "F16", 1), ("bfloat16", "BF16", 32)])
def test_vectors_and_positions_are_stored_in_float32(tmp_path, path, dtype, kind, file_type):
    """Norms, biases and positions, to the bit; matrices take the dtype that was asked for."""
    report = zoo.convert(path, tmp_path / "b.gguf", dtype=dtype)
    _, keys, tensors = parse((tmp_path / "b.gguf").read_bytes())

    for name, (found, shape, _) in tensors.items():
        assert found == ("F32" if len(shape) == 1 or name == "position_embd.weight" else kind)
    assert keys["general.file_type"] == file_type
    again = {name: t for name, t in zoo.open_checkpoint(path)[1].tensors.items() if tensors[name][0] == "F32"}
    assert again and all(t.load().tobytes() == tensors[name][2] for name, t in again.items())
    assert report.bytes_written == sum(len(data) for _, _, data in tensors.values())


def test_a_vector_that_is_no_longer_narrow_is_not_rounded(tmp_path, path):
    """Where zoo.dtypes says float16 and somebody put another float32 there, reading refuses."""
    zoo.save(small_model(ODD, dtype=torch.float16), tmp_path / "b.gguf")
    data = bytearray((tmp_path / "b.gguf").read_bytes())
    data[-30 * 4 :] = np.full(38, 0.1, "<f4").tobytes()[: 30 * 4]
    (tmp_path / "b.gguf").write_bytes(data)

    with pytest.raises(CorruptFile, match=r"output_norm\.bias is not float16, as its zoo\.dtypes says"):
        zoo.load(tmp_path / "b.gguf")


@pytest.mark.parametrize("encoding", ["q8_0", "q5_0", "q4_0"])
def test_quantised_files(tmp_path, encoding):
    """Matrices are quantised, the embedding and the head always to Q8_0; what is read is what stored() foretells."""
    zoo.save(small_model(WIDE, dtype=torch.float32), tmp_path / "a.safetensors")
    report = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf", dtype=encoding)
    _, keys, tensors = parse((tmp_path / "b.gguf").read_bytes())

    assert {name: kind for name, (kind, shape, _) in tensors.items() if len(shape) > 1} == {
        "token_embd.weight": "Q8_0",
        "position_embd.weight": "F32",
        **{f"blk.{i}.{name}.weight": encoding.upper() for i in range(2) for name in ("attn_qkv", "attn_output")},
        **{f"blk.{i}.{name}.weight": encoding.upper() for i in range(2) for name in ("ffn_up", "ffn_down")},
        "output.weight": "Q8_0",
    }
    assert {"q8_0": 7, "q5_0": 8, "q4_0": 2}[encoding] == keys["general.file_type"]
    types = "Q8_0" if encoding == "q8_0" else f"{encoding.upper()} and Q8_0"
    assert open_path(tmp_path / "b.gguf")[1].notes == (f"its {types} tensors are read as float32",)
    assert report.verified
    assert not report.lossless
    assert (encoding, report.bytes_written) == (report.encoding, sum(len(data) for _, _, data in tensors.values()))
    before, after = zoo.load(tmp_path / "a.safetensors").state_dict(), zoo.load(tmp_path / "b.gguf").state_dict()
    for name, tensor in before.items():
        # A step is the largest value of 32 over 127, 16 or 8, and half a step is the most that can be lost (but for
        # the value that is largest with the other sign: a whole one). Wild weights go to 1.5.
        steps = {"q8_0": 127, "q5_0": 16, "q4_0": 8}[encoding] if name.startswith("blocks") else 127
        error = (after[name] - tensor).abs().max()
        assert error == 0 if tensor.ndim == 1 or name == "pos_emb.weight" else 0 < error <= tensor.abs().max() / steps


def test_rows_that_are_no_whole_blocks_stay_float32(tmp_path, path):
    """Blocks have 32 values: a model of width 30 and inner width 70 is not quantised at all, and this is said."""
    report = zoo.convert(path, tmp_path / "b.gguf", dtype="q4_0")

    assert {kind for kind, _, _ in parse((tmp_path / "b.gguf").read_bytes())[2].values()} == {"F32"}
    assert report.notes == [
        f"rows of {n} values are not a multiple of 32, so such matrices are never quantised" for n in (30, 70)
    ]


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (-np.inf, "not finite"), (1e8, "too large")])
def test_values_that_blocks_cannot_hold_are_refused(tmp_path, value, reason):
    """A scale is a float16: NaN, infinity and giants are refused with the tensor's name, and no output is left."""
    model = small_model(WIDE, dtype=torch.float32)
    model.blocks[1].mlp.up.weight.data[5, 7] = value
    zoo.save(model, tmp_path / "a.safetensors")

    for encoding in get_format("gguf").encodings:
        with pytest.raises(CannotHold, match=rf"blk\.1\.ffn_up\.weight cannot be stored as Q.*{reason}"):
            zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf", dtype=encoding)
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("change", [{"bias": False}, {"qkv_bias": False}, {"activation": "gelu"}])
def test_what_llama_cpp_cannot_compute_is_refused(tmp_path, change):
    """llama.cpp's gpt2 has every bias and the tanh GELU; another model is refused by the field that differs."""
    zoo.save(small_model(ODD.replace(**change), dtype=torch.float32), tmp_path / "a.safetensors")
    (field, value), *_ = change.items()

    with pytest.raises(CannotHold, match=f"it has no place for {field} {value!r}"):
        zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf", strict=True)


@pytest.mark.parametrize("tied", [True, False])
def test_files_of_llama_cpp_itself_are_read(tmp_path, tied):
    """Without any key of zoo's: the config, the rows, whether the head is tied, and every bit."""
    model = small_model(ODD.replace(vocab_rows=97, tied=tied, dropout=0.1), dtype=torch.float32)
    keys, tensors = foreign(model)
    (tmp_path / "m").write_bytes(build(keys, tensors))
    found, checkpoint = open_path(tmp_path / "m")

    assert found.name == "gguf"
    assert (model.config, (), {}, {}) == (
        checkpoint.config,
        checkpoint.notes,
        checkpoint.provenance,
        checkpoint.vocabulary.content,
    )
    for name, (kind, shape, data) in tensors.items():
        assert checkpoint.tensors[name].dtype == {"F32": np.float32, "F16": np.float16}[kind]
        assert (shape, data) == (checkpoint.tensors[name].shape, checkpoint.tensors[name].load().tobytes())
    loaded = zoo.load(tmp_path / "m")  # both dtypes: it computes in the wider
    assert loaded(random_ids(1, 5)).dtype == torch.float32


def test_a_head_that_repeats_the_embedding_is_tied(tmp_path):
    """Converters that write output.weight in any case mean a tied head if it has the embedding's bits."""
    keys, tensors = foreign(small_model(ODD, dtype=torch.float32))
    tensors["output.weight"] = tensors["token_embd.weight"]
    (tmp_path / "m").write_bytes(build(keys, tensors))
    found, checkpoint = open_path(tmp_path / "m")

    assert checkpoint.config.tied
    assert [drop.name for drop in found.to_ours(checkpoint)[1]] == ["output.weight"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_versions_and_alignments(tmp_path, version, alignment):
    """Version 2 is laid out as 3 is; general.alignment is honoured."""
    keys, tensors = foreign(small_model(ODD, dtype=torch.float32), general__alignment=alignment)
    (tmp_path / "m").write_bytes(build(keys, tensors, version=version, alignment=alignment))
    checkpoint = open_path(tmp_path / "m")[1]

    assert tensors["output_norm.bias"][2] == checkpoint.tensors["output_norm.bias"].load().tobytes()
    to_ours(get_format("gguf").table, checkpoint.tensors, checkpoint.config, tmp_path)
    zoo.load(tmp_path / "m")


def test_the_provenance_is_looked_at_last(tmp_path, model):
    """Nothing of it is needed before the tensors are written; it comes back, and a giant is refused."""
    written = []
    tensors = {
        name: LazyTensor(tuple(t.shape), np.dtype(np.float32), lambda t=t: written.append(1) or t.numpy())
        for name, t in model.state_dict().items()
    }

    def provenance():
        assert len(written) == len(tensors)
        return {"source": "ünïcode"}

    write(tmp_path / "m.gguf", ODD, tensors, provenance=provenance)
    assert open_path(tmp_path / "m.gguf")[1].provenance == {"source": "ünïcode"}
    with pytest.raises(CannotHold, match="too many for a GGUF file"):
        write(tmp_path / "n.gguf", ODD, tensors, provenance=lambda: {"source": "x" * 16384})


def test_the_same_model_gives_the_same_bytes(tmp_path, path, model):
    """Writing is deterministic, threads or not."""
    zoo.save(model, tmp_path / "again.gguf")

    assert path.read_bytes() == (tmp_path / "again.gguf").read_bytes()


def test_the_format_is_known_by_its_magic_and_architecture(tmp_path, path):
    """A gpt2 file is recognised whatever it is called, also when it is truncated; a llama or a directory is not."""
    cut, llama = tmp_path / "cut", tmp_path / "llama.gguf"
    cut.write_bytes(path.read_bytes()[:30])
    llama.write_bytes(build({"general.name": "x", "general.architecture": "llama"}, {}))

    assert detect_format(cut).name == "gguf"
    with pytest.raises(CorruptFile, match="has a truncated or corrupt header"):
        open_path(cut)
    assert not get_format("gguf").sniff(llama)
    with pytest.raises(FormatError, match=r"its architecture is 'llama'; zoo reads gpt2"):
        open_path(llama, format="gguf")
    assert not get_format("gguf").sniff(tmp_path)


def test_a_plan_foretells_the_size(tmp_path):
    """Bytes are those of the blocks, so that free space and progress are right."""
    zoo.save(small_model(WIDE, dtype=torch.float16), tmp_path / "a.safetensors")
    expected = 2 * 97 * 64 // 32 * 34 + 23 * 64 * 4
    matrices = 3 * 64 * 64 + 64 * 64 + 2 * 96 * 64
    vectors = 2 * 64 + 3 * 64 + 64 + 2 * 64 + 96 + 64
    expected += 2 * (matrices // 32 * 18 + vectors * 4) + 2 * 64 * 4

    assert expected == make_plan(tmp_path / "a.safetensors", "gguf", dtype="q4_0").nbytes


def custom_vocabulary():
    """256 bytes, four merges, a hole at 261, and special tokens of every kind."""
    texts = [char for _, char in ALPHABET] + ["he", "ll", "hell", "hello", "<|endoftext|>"]
    encoder = {text: i for i, text in enumerate(texts)} | {"[MASK]": 262}
    merges = b"#version: 0.2\nh e\nl l\nhe ll\nhell o\n"
    return Vocabulary.byte_level(
        json.dumps(encoder).encode(), merges, json.dumps({"<|user|>": 263, "jolly": 264}).encode()
    )


def test_gpt2s_own_vocabulary_is_recognised(tmp_path):
    """All tokens are there, and reading gives GPT-2's own vocabulary."""
    config = GPTConfig(context_length=4, width=2, n_heads=1, n_layers=1)
    zoo.save(small_model(config, dtype=torch.float32), tmp_path / "m.gguf")
    keys = {key: value for key, value in parse((tmp_path / "m.gguf").read_bytes())[1].items() if "tokenizer" in key}
    gpt2 = Vocabulary.gpt2()

    assert keys.pop("tokenizer.ggml.tokens") == [*gpt2.tokens]
    assert keys.pop("tokenizer.ggml.token_type") == [1] * 50256 + [3]
    assert keys.pop("tokenizer.ggml.merges") == [" ".join(pair) for pair in gpt2.merges]
    ids = {f"tokenizer.ggml.{role}_token_id": 50256 for role in ("bos", "eos", "unknown")}
    assert keys == {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", **ids}
    checkpoint = open_path(tmp_path / "m.gguf")[1]
    assert checkpoint.vocabulary is gpt2
    assert checkpoint.config == config


def test_another_vocabulary_comes_back_with_its_meaning(tmp_path):
    """Tokens, ids, merges and what is special are the same; holes and padding are not made into tokens."""
    config = ODD.replace(vocab_size=265, vocab_rows=270)
    tensors = {name: LazyTensor.of(t.numpy()) for name, t in small_model(config).float().state_dict().items()}
    before = custom_vocabulary()
    write(tmp_path / "m.gguf", config, tensors, vocabulary=before)
    keys = parse((tmp_path / "m.gguf").read_bytes())[1]
    after = open_path(tmp_path / "m.gguf")[1].vocabulary

    assert (before.tokens, before.merges) == (after.tokens, after.merges)
    text = "hello world<|endoftext|> <|user|>jolly é"
    ours, again = zoo.Tokenizer(before), zoo.Tokenizer(after)
    assert {**ours.special, "[MASK]": 262} == again.special  # llama.cpp would print it otherwise
    assert ours.encode(text) == again.encode(text)
    assert keys["tokenizer.ggml.tokens"][259:] == [
        "hello",
        "<|endoftext|>",
        "[PAD261]",
        "[MASK]",
        "<|user|>",
        "jolly",
        *(f"[PAD{i}]" for i in range(265, 270)),
    ]
    assert keys["tokenizer.ggml.token_type"][259:] == [1, 3, 5, 3, 3, 3, 5, 5, 5, 5, 5]


def test_a_tokenizer_without_an_end_is_noted(tmp_path):
    """Where no token is <|endoftext|>, llama.cpp takes its default, which is some other token."""
    vocabulary = Vocabulary.byte_level(b'{"a": 0, "b": 1}', b"#version: 0.2\n")
    checkpoint = Checkpoint(tmp_path, WIDE, {}, vocabulary=vocabulary)

    assert get_format("gguf").notes(checkpoint) == ["no token ends a text; llama.cpp then takes the token 11 for it"]


def test_tokens_without_a_row_are_left_out_and_named(tmp_path, model):
    """llama.cpp wants as many tokens as rows: what the embedding has no row for is not written."""
    tensors = {name: LazyTensor.of(t.numpy()) for name, t in model.state_dict().items()}

    write(tmp_path / "m.gguf", ODD, tensors, vocabulary=custom_vocabulary())
    assert len(parse((tmp_path / "m.gguf").read_bytes())[1]["tokenizer.ggml.tokens"]) == 97
    zoo_file = Checkpoint(tmp_path, ODD, to_theirs(ZooFile.table, tensors, ODD), vocabulary=custom_vocabulary())
    get_format("zoo").write(tmp_path / "m.safetensors", zoo_file, WriteOptions())
    report = zoo.convert(tmp_path / "m.safetensors", tmp_path / "n.gguf")
    assert report.verified
    assert "the token '¤' (97) has no row in the embedding; nor have 166 others" in report.notes


@pytest.mark.parametrize("kind", [{"tokenizer__ggml__model": "llama"}, {"tokenizer__ggml__pre": "llama-bpe"}])
def test_a_tokenizer_of_another_kind_is_left_out_and_named(tmp_path, kind):
    """A gpt2 with llama's tokenizer, say: its tokens are counted, and a note tells that they are left."""
    tokens = [*map(str, range(97)), *(f"[PAD{i}]" for i in range(97, 101))]
    keys, tensors = foreign(
        small_model(ODD.replace(vocab_rows=101), dtype=torch.float32),
        **{"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": tokens, "tokenizer__ggml__merges": [], **kind},
    )
    (tmp_path / "m").write_bytes(build(keys, tensors))
    checkpoint = open_path(tmp_path / "m")[1]

    assert (97, 101) == (checkpoint.config.vocab_size, checkpoint.config.vocab_rows)
    assert not checkpoint.vocabulary.content
    assert "is not of GPT-2's kind and is left out" in checkpoint.notes[0]


def test_metadata_keeps_its_types(tmp_path):
    """Every type of GGUF is read; a float32 is the shortest decimal that means it."""
    arrays = {7: "<IIQ2?", 0: "<IIQ2B", 11: "<IIQ2q"}
    scalars = {0: ("B", 200), 1: ("b", -3), 2: ("H", 9), 3: ("h", -9), 5: ("i", -7), 10: ("Q", 1 << 60), 11: ("q", -1)}
    keys = {
        "s": "ü",
        "f": struct.pack("<If", 6, 1e-5),
        "d": struct.pack("<Id", 12, 0.1),
        "b": True,
        "strings": ["a", ""],
        **{f"n{kind}": struct.pack(f"<I{code}", kind, number) for kind, (code, number) in scalars.items()},
        **{f"a{kind}": struct.pack(code, 9, kind, 2, 1, 0) for kind, code in arrays.items()},
    }
    (tmp_path / "m").write_bytes(build(keys, {}))
    found = read_gguf(tmp_path / "m").metadata

    expected = {"s": "ü", "f": 1e-5, "d": 0.1, "b": True, "strings": ["a", ""]}
    expected |= {f"n{kind}": number for kind, (_, number) in scalars.items()}
    assert expected == {key: value for key, value in found.items() if not isinstance(value, np.ndarray)}
    assert all(found[f"a{kind}"].tolist() == [1, 0] for kind in arrays)


@pytest.mark.peers
@pytest.mark.parametrize("n", [999, 12_345, 38_900, 5_400_000, 124_439_808, 1_557_611_200, 12_345_678_901])
def test_the_size_label_is_that_of_llama_cpps_converter(n):
    """Two digits at least, as its Python package rounds."""
    gguf = pytest.importorskip("gguf")
    assert gguf.size_label(n, 0, 0, 0) == _size_label(n)


def test_the_name_is_that_of_the_source(tmp_path, model):
    """general.name is the name of the file or the directory that was converted."""
    zoo.save(model, tmp_path / "my-model.safetensors")
    zoo.convert(tmp_path / "my-model.safetensors", tmp_path / "m.gguf")

    assert parse((tmp_path / "m.gguf").read_bytes())[1]["general.name"] == "my-model"
