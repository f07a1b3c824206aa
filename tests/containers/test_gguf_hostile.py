"""GGUF files that are damaged or malicious: a ZooError that names what is wrong, in little time and memory."""

import json
import struct
import tracemalloc

import pytest
import torch
from gguf_file import ARRAY, STRING, build, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import small_model

import zoo
from zoo.containers.gguf.reader import read_gguf
from zoo.errors import CorruptFile, FormatError, OptionError, ZooError
from zoo.formats.opening import open_path
from zoo.formats.registry import get_format
from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import ALPHABET
from zoo.text.vocabulary import Vocabulary

CONFIG = GPTConfig(vocab_size=260, vocab_rows=263, context_length=5, width=32, n_heads=2, n_layers=1, inner_width=64)
HUGE = struct.pack("<Q", 1 << 62)
ARCH = {"general.architecture": "gpt2"}
ONE = {"t": ("F32", (2, 3), bytes(24))}


def start(n_tensors, n_keys, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def described(name, shape, kind, offset=0):
    """The description of one tensor."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.fixture
def path(tmp_path):
    """A quantised file with a tokenizer."""
    encoder = {char: i for i, (_, char) in enumerate(ALPHABET)} | {"ab": 256, "<|endoftext|>": 257, "<|x|>": 259}
    vocabulary = Vocabulary.byte_level(json.dumps(encoder).encode(), b"#version: 0.2\na b\n")
    model = small_model(CONFIG, dtype=torch.float32, tokenizer=zoo.Tokenizer(vocabulary))
    zoo.save(model, tmp_path / "a.safetensors")
    zoo.convert(tmp_path / "a.safetensors", tmp_path / "m.gguf", dtype="q5_0")
    return tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF", "has a truncated or corrupt header"),
        (start(0, 1) + HUGE, "has a truncated or corrupt header"),
        (start(0, 1 << 40), "says that it has 1,099,511,627,776 keys"),
        (start(1 << 40, 0), "says that it has 1,099,511,627,776 tensors"),
        (start(0, 1) + text("k") + struct.pack("<I", STRING) + HUGE, "truncated"),
        (start(0, 1) + text("k") + struct.pack("<II", ARRAY, STRING) + HUGE, "strings; it is damaged"),
        (start(0, 1) + text("k") + struct.pack("<IIQ", ARRAY, STRING, 9), "truncated"),
        (start(0, 1) + text("k") + struct.pack("<II", ARRAY, 10) + HUGE, "truncated"),
        (start(0, 1) + text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) * 3, "type 9 among its keys"),
        (start(0, 1) + text("k") + struct.pack("<I", 13) + bytes(8), "type 13 among its keys"),
        (start(0, 1) + text(b"\xff\xfe") + bytes(8), "not UTF-8"),
        (start(0, 2) + 2 * (text("k") + struct.pack("<II", 4, 1)), "has the key k twice"),
        (start(0, 0, version=1), "version 1; zoo reads versions 2 and 3"),
        (start(0, 0, version=4), "version 4; zoo"),
        (start(0, 0, version=3 << 24), "big-endian"),
        (start(1, 0) + described("t", (1,) * 5, 0), "tensor t has 5 axes"),
        (start(1, 0) + described("t", (1 << 63, 2), 0), "impossible axes"),
        (start(1, 0) + described("t", (1 << 47, 1 << 47), 0), "impossible axes"),
        (start(1, 0) + described("t", (33, 2), 8), r"impossible axes \(2, 33\) for its type Q8_0"),
        (start(1, 0) + described("t", (), 8), "impossible axes"),
        (start(1, 0) + described("t", (256, 2), 12), "tensor t is of ggml's type Q4_K; zoo reads F32, F16, BF16, Q4_0"),
        (start(1, 0) + described("t", (256, 2), 99), "of ggml's type number 99"),
        (build({"general.alignment": 0}, ONE), "general.alignment 0, which is not a power of two"),
        (build({"general.alignment": 48}, ONE), "general.alignment 48, which"),
        (build({"general.alignment": "x"}, ONE), "general.alignment 'x'"),
        (build({"general.alignment": 1 << 31}, ONE), "tensor t are not where"),
        (build(ARCH, ONE)[:-9], "tensor t are not where they must be; the file may be truncated"),
        (build(ARCH, ONE) + bytes(1), "bytes where its header describes"),
        (start(2, 0) + 2 * described("t", (2,), 0) + bytes(200), "tensor t are not where"),
        (start(1, 0) + described("t", (2,), 0, 32) + bytes(200), "tensor t are not where"),
        (start(1, 0) + described("t", (2,), 0, 4) + bytes(200), "tensor t are not where"),
    ],
)
def test_a_container_that_contradicts_itself_is_refused(tmp_path, data, message):
    """Counts, lengths, types, axes and offsets are checked against the file before anything is allocated."""
    (tmp_path / "m.gguf").write_bytes(data)

    tracemalloc.start()
    with pytest.raises(FormatError, match=message):
        read_gguf(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    get_format("gguf").sniff(tmp_path / "m.gguf")  # never raises


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (text("gpt2.block_count"), text("gpt2.block_kount"), "gpt2.block_count is missing"),
        (b"head_count\x04\x00\x00\x00\x02", b"head_count\x04\x00\x00\x00\x00", "n_heads must be at least 1"),
        (
            b"block_count\x04\x00\x00\x00\x01",
            b"block_count\x04\x00\x00\x00\x02",
            "blk.1.attn_norm.weight .32,. is missing",
        ),
        (b"zoo.vocab_size\x04\x00\x00\x00\x04", b"zoo.vocab_size\x04\x00\x00\x00\x08", "vocab_rows .260. must be at"),
        (b"zoo.tied\x07\x00\x00\x00\x01", b"zoo.tied\x07\x00\x00\x00\x00", "tensor output.weight .260, 32. is missing"),
        (b"zoo.dropout\x0c", b"zoo.dropout\x0a", "dropout must be"),
        (b"embedding_length\x04", b"embedding_length\x06", "width must be of type int"),
        (text("token_embd.weight"), text("token_embx.weight"), "has no token_embd.weight"),
        (text("blk.0.ffn_up.weight"), text("blk.0.ffn_ux.weight"), "blk.0.ffn_ux.weight .64, 32. is unexpected"),
        (text("tokenizer.ggml.merges"), text("tokenizer.ggml.mergez"), "has a tokenizer without merges"),
        (text("tokenizer.ggml.tokens"), text("tokenizer.ggml.tokenz"), "has a tokenizer without tokens"),
        (b"token_type\x09\x00\x00\x00\x05", b"token_type\x09\x00\x00\x00\x01", "type|damaged|corrupt|truncated"),
        (b'"source_format":', b'"source_format" ', "its provenance is not valid JSON"),
    ],
)
def test_keys_that_contradict_the_file_are_refused(path, old, new, message):
    """The config, the lists of the tokenizer and zoo's own keys are checked like everything else."""
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))

    with pytest.raises(FormatError, match=message):
        found, checkpoint = open_path(path)
        found.to_ours(checkpoint)


@pytest.mark.parametrize(
    ("old", "new", "message"), [("ab", "aa", "lacks 'ab', which .* makes"), ("a b", "abb", "not two tokens")]
)
def test_a_vocabulary_whose_merges_make_no_tokens_bars_text_only(path, old, new, message):
    """The weights are read; encoding a text is refused with the reason."""
    path.write_bytes(path.read_bytes().replace(text(old), text(new), 1))
    found, checkpoint = open_path(path)
    found.to_ours(checkpoint)

    with pytest.raises(OptionError, match=message):
        zoo.Tokenizer(checkpoint.vocabulary).encode("ab")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": ["gpt2"]}, "its architecture is None"),
        ({"split.count": 3}, "one of several parts; merge them with llama-gguf-split"),
        ({"tokenizer.ggml.model": [1, 2]}, "does not name the kind of its tokenizer as text"),
        ({"tokenizer.ggml.model": "gpt2"}, "a tokenizer without tokens"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [1]}, "a tokenizer without tokens"),
        (
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.tokens": ["a"],
                "tokenizer.ggml.merges": ["a b"],
                "tokenizer.ggml.token_type": [1, 1],
            },
            "one token_type for each token",
        ),
        ({"zoo.dtypes": '{"t": "float16"}'}, "does not fit its tensors: t 'float16'"),
        ({"zoo.dtypes": '{"output_norm.bias": "float64"}'}, "does not fit its tensors"),
        ({"zoo.dtypes": '{"output_norm.bias": ["float16"]}'}, "does not fit its tensors"),
        ({"zoo.dtypes": "[1]"}, "its zoo.dtypes is JSON, but no object"),
        ({"zoo.dtypes": 7}, "its zoo.dtypes is JSON, but no object"),
        ({"zoo.provenance": "{"}, "its provenance is not valid JSON"),
        ({"zoo.provenance": [1]}, "its provenance is JSON, but no object"),
        ({"zoo.vocab_size": 0}, "vocab_size must be at least 1"),
        ({"zoo.tied": 1}, "tied must be of type bool"),
        ({"gpt2.attention.head_count": [2, 2]}, "gpt2.attention.head_count is missing"),
    ],
)
def test_keys_of_the_wrong_kind_are_refused(tmp_path, keys, message):
    """Every key that is looked at may be of any type and say anything."""
    model = small_model(CONFIG, dtype=torch.float32)
    known = {
        **ARCH,
        "gpt2.block_count": 1,
        "gpt2.context_length": 5,
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 64,
        "gpt2.attention.head_count": 2,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }
    zoo.save(model, tmp_path / "a.gguf")
    tensors = {
        name: ("F32", t.shape, t.load().tobytes()) for name, t in open_path(tmp_path / "a.gguf")[1].tensors.items()
    }
    (tmp_path / "m.gguf").write_bytes(build(known | keys, tensors))

    with pytest.raises(FormatError, match=message):
        open_path(tmp_path / "m.gguf", format="gguf")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    """What `git clone` leaves without LFS is told for what it is."""
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

    with pytest.raises(FormatError, match="Git LFS pointer"):
        open_path(tmp_path / "m.gguf", format="gguf")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(path, data):
    """Bytes changed, dropped or added: a ZooError, or a checkpoint whose tensors are all there."""
    content = bytearray(path.read_bytes())
    end = content.index(text("zoo.provenance"))
    described_at = content.index(text("token_embd.weight"))
    places = st.one_of(
        st.integers(0, 900),
        st.integers(end - 2000, end + 60),
        st.integers(described_at, described_at + 900),
        st.integers(0, len(content) - 1),
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(places)] = data.draw(st.sampled_from([0, 1, 8, 9, 127, 255]))
    length = data.draw(st.integers(-300, 300))
    changed = data.draw(st.sampled_from(["", "cut", "longer"]))
    content = content[: min(length, -1)] if changed == "cut" else content
    content = content + bytes(abs(length)) if changed == "longer" else content
    broken = path.with_name("broken.gguf")
    broken.write_bytes(content)
    try:
        found, checkpoint = open_path(broken, format="gguf")
        ours, _ = found.to_ours(checkpoint)
        arrays = {name: tensor.load() for name, tensor in ours.items()}
    except ZooError:
        return

    assert checkpoint.config.parameter_shapes() == {name: array.shape for name, array in arrays.items()}


def test_damage_among_the_values_is_not_looked_for(path):
    """GGUF has no checksums: a damaged scale gives infinite values, no error and no warning."""
    data = bytearray(path.read_bytes())
    data[-40:] = b"\xff" * 40
    path.write_bytes(data)

    _, checkpoint = open_path(path)
    assert all(tensor.load().shape == tensor.shape for tensor in checkpoint.tensors.values())
    with pytest.raises(CorruptFile):
        path.write_bytes(data[:-33])
        open_path(path)


def test_a_token_that_is_there_twice_bars_text_only(path, tmp_path):
    """The weights load and convert; the note says why there is no text, and text is refused."""
    before = zoo.load(path)
    path.write_bytes(path.read_bytes().replace(text("`") + text("a"), text("`") + text("b"), 1))
    report = zoo.convert(path, tmp_path / "out.safetensors")
    again = zoo.load(path)

    assert any("has the token 'b' twice, so text cannot be used" in note for note in report.notes)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))
    with pytest.raises(OptionError, match="give token ids"):
        again.tokenizer.encode("b")
