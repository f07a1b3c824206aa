import json
import struct

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small import random_ids, small_model
from strategies import configs

import zoo
from zoo import make_plan
from zoo.core.tensors import DTYPES, LazyTensor
from zoo.errors import CannotHold, CorruptFile, FormatError, ZooError
from zoo.formats.mapping import to_theirs
from zoo.formats.opening import open_path
from zoo.formats.registry import detect_format, get_format
from zoo.models.gpt2.config import GPTConfig

PADDED = GPTConfig(vocab_size=97, vocab_rows=101, context_length=23, width=30, n_heads=5, n_layers=3, dropout=0.3)
BARE = PADDED.replace(vocab_rows=97, dropout=0.1)
HELD = {"tied": True, "bias": True, "qkv_bias": True, "activation": "gelu_tanh", "norm_eps": 1e-5, "inner_width": 0}


@pytest.fixture
def model():
    return small_model(PADDED, dtype=torch.float32)


@pytest.fixture
def path(tmp_path, model):
    """A file as zoo writes it: 97 tokens, 101 rows, 128 in the file."""
    zoo.save(model, tmp_path / "m.bin")
    return tmp_path / "m.bin"


def kinds(rows, t, c, n):
    """The parameters in the order of fill_in_parameter_sizes in train_gpt2.c, with their shapes."""
    return {
        "wte": (rows, c),
        "wpe": (t, c),
        "ln1w": (n, c),
        "ln1b": (n, c),
        "qkvw": (n, 3 * c, c),
        "qkvb": (n, 3 * c),
        "attprojw": (n, c, c),
        "attprojb": (n, c),
        "ln2w": (n, c),
        "ln2b": (n, c),
        "fcw": (n, 4 * c, c),
        "fcb": (n, 4 * c),
        "fcprojw": (n, c, 4 * c),
        "fcprojb": (n, c),
        "lnfw": (c,),
        "lnfb": (c,),
    }


ZOO_NAMES = {
    "ln1": "norm1",
    "qkv": "attn.qkv",
    "attproj": "attn.out",
    "ln2": "norm2",
    "fc": "mlp.up",
    "fcproj": "mlp.down",
}


def parse(data):
    """A float32 file of llm.c, read as train_gpt2.c reads it: the header's numbers and an array a kind."""
    header = struct.unpack_from("<8i", data)
    _, _, t, _, n, _, c, rows = header
    arrays, offset = {}, 1024
    for kind, shape in kinds(rows, t, c, n).items():
        count = int(np.prod(shape))
        arrays[kind] = np.array(struct.unpack_from(f"<{count}f", data, offset), np.float32).reshape(shape)
        offset += 4 * count
    assert offset == len(data)
    return header, arrays


def zoo_names(arrays):
    """What parse() gave, under zoo's names."""
    named = {"tok_emb.weight": arrays["wte"], "pos_emb.weight": arrays["wpe"]}
    named |= {"final_norm.weight": arrays["lnfw"], "final_norm.bias": arrays["lnfb"]}
    for kind, ours in ZOO_NAMES.items():
        for letter, part in (("w", "weight"), ("b", "bias")):
            for i, array in enumerate(arrays[kind + letter]):
                named[f"blocks.{i}.{ours}.{part}"] = array
    return named


def build(version, v, rows, t, c, h, n, dtype="<f4", seed=0):
    """A file of llm.c itself: eight numbers, zeros, and random weights."""
    count = sum(int(np.prod(shape)) for shape in kinds(rows, t, c, n).values())
    values = np.random.default_rng(seed).normal(size=count).astype(dtype)
    numbers = [20240326, version, t, v, n, h, c, 0 if version < 3 else rows]
    return struct.pack("<8i", *numbers).ljust(1024, b"\0") + values.tobytes()


def loaded(checkpoint):
    """All tensors in memory, under zoo's names."""
    ours, _ = get_format("llm.c").to_ours(checkpoint)
    return {name: tensor.load() for name, tensor in ours.items()}


def test_an_independent_parser_finds_every_parameter(path, model):
    """The file holds the sixteen kinds in train_gpt2.c's order and (out, in), and 27 rows of zeros after the 101."""
    header, arrays = parse(path.read_bytes())
    named = zoo_names(arrays)

    assert header == (20240326, 3, 23, 97, 3, 5, 30, 128)
    assert not named["tok_emb.weight"][101:].any()
    named["tok_emb.weight"] = named["tok_emb.weight"][:101]
    for name, expected in model.state_dict().items():
        np.testing.assert_array_equal(expected.numpy(), named.pop(name), err_msg=name)
    assert not named


def test_the_parsed_weights_give_the_models_logits(path, model):
    """A GPT-2 written from the papers, run on what the independent parser found, agrees with the model."""
    ids = random_ids(1, 23)
    expected = model(ids)[0].detach().numpy()
    found = oracle.logits(zoo_names(parse(path.read_bytes())[1]), ids[0].tolist(), n_layers=3, n_heads=5)

    # Float32 against float64, logits up to 40; a transposed matrix is off by tens.
    np.testing.assert_allclose(found[:, :97], expected[:, :97], atol=1e-3)


def test_the_bytes_of_a_file_never_change(tmp_path):
    """A model of one layer whose values count up is these bytes: a header, zoo's config in it, and the numbers."""
    shapes = kinds(3, 2, 2, 1)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    config = GPTConfig(vocab_size=3, context_length=2, width=2, n_heads=1, n_layers=1)
    file = get_format("llm.c")
    counted, start = {}, 0
    for (name, shape), size in zip(file.table.shapes(config).items(), sizes, strict=True):
        counted[name] = LazyTensor.of(np.arange(start, start + size, dtype=np.float32).reshape(shape))
        start += size
    ours, _ = file.to_ours(zoo.Checkpoint(tmp_path, config, counted))
    theirs = zoo.Checkpoint(tmp_path, config, to_theirs(file.table, ours, config))
    file.write(tmp_path / "m.bin", theirs, zoo.formats.base.WriteOptions())
    data = (tmp_path / "m.bin").read_bytes()

    numbers = "c6d73401 03000000 02000000 03000000 01000000 01000000 02000000 80000000"
    assert bytes.fromhex(numbers) == data[:32]
    own = json.dumps(config.to_dict()).encode()
    assert b"zoo.config " + own == data[32:1024].rstrip(b"\0")
    wte = bytes.fromhex("00000000 0000803f 00000040 00004040 00008040 0000a040")
    assert wte + bytes(125 * 2 * 4) == data[1024 : 1024 + 128 * 2 * 4]
    assert np.arange(6, 88, dtype="<f4").tobytes() == data[1024 + 128 * 2 * 4 :]


@pytest.mark.parametrize(("version", "rows", "dtype"), [(1, 97, "<f4"), (3, 128, "<f4"), (3, 320, "<f4")])
def test_files_of_llmc_itself_are_read_with_all_their_rows(tmp_path, version, rows, dtype):
    """Version 1 has no padding; version 3 says how many rows there are, and none of them is cut."""
    data = build(version, 97, rows, 23, 30, 5, 3, dtype)
    (tmp_path / "m.bin").write_bytes(data)
    found, checkpoint = open_path(tmp_path / "m.bin")

    assert found.name == "llm.c"
    assert BARE.replace(vocab_rows=rows) == checkpoint.config
    expected = zoo_names(parse(data[:28] + struct.pack("<i", rows) + data[32:])[1])
    for name, array in loaded(checkpoint).items():
        np.testing.assert_array_equal(expected[name], array)


@pytest.mark.parametrize(("version", "rows"), [(2, 97), (5, 128)])
def test_bfloat16_files_are_read_bit_for_bit(tmp_path, version, rows):
    """Versions 2 and 5 hold bfloat16: two bytes a value, the upper half of a float32."""
    data = build(version, 97, rows, 23, 30, 5, 3, DTYPES["bfloat16"])
    (tmp_path / "m.bin").write_bytes(data)
    _, checkpoint = open_path(tmp_path / "m.bin")
    arrays = loaded(checkpoint)

    assert {DTYPES["bfloat16"]} == {array.dtype for array in arrays.values()}
    wte = np.frombuffer(data, "<u2", rows * 30, 1024).astype("<u4") << 16
    np.testing.assert_array_equal(wte.view("<f4").reshape(rows, 30), arrays["tok_emb.weight"].astype(np.float32))
    np.testing.assert_array_equal(np.frombuffer(data[-60:], "<u2"), arrays["final_norm.bias"].view(np.uint16))


@pytest.mark.parametrize(("version", "size"), [(3, 497_904_640), (5, 248_952_832)])
def test_the_published_124m_files_have_the_size_that_is_read_and_written(tmp_path, version, size):
    """gpt2_124M.bin and gpt2_124M_bf16.bin: read at exactly this length, and written at it from 50,257 rows."""
    path, config = tmp_path / "gpt2_124M.bin", GPTConfig()
    with path.open("wb") as file:
        file.write(struct.pack("<8i", 20240326, version, 1024, 50257, 12, 12, 768, 50304))
        file.truncate(size)  # a hole, no bytes on the disk
    _, checkpoint = open_path(path, size="124M")
    assert config.replace(vocab_rows=50304) == checkpoint.config

    dtype = DTYPES["float32" if version == 3 else "bfloat16"]
    shapes = config.parameter_shapes()
    ours = {name: LazyTensor(shape, dtype, lambda: pytest.fail("read")) for name, shape in shapes.items()}
    theirs = to_theirs(get_format("llm.c").table, ours, config)
    assert size == 1024 + sum(tensor.astype(dtype).nbytes for tensor in theirs.values())

    for wrong in (size - 1, size + 1):
        with path.open("r+b") as file:
            file.truncate(wrong)
        with pytest.raises(CorruptFile, match=f"has {wrong:,} bytes where its header asks for {size:,}"):
            open_path(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(config=configs(**HELD), half=st.booleans())
@example(config=PADDED, half=False)
@example(config=BARE, half=True)
@example(config=BARE.replace(vocab_rows=128), half=False)
def test_there_and_back_nothing_changes(tmp_path, config, half):
    """The way zoo -> llm.c -> zoo keeps every bit and the whole config, dropout and number of rows too."""
    dtype = torch.bfloat16 if half else torch.float32
    zoo.save(small_model(config, dtype=dtype), tmp_path / "a.safetensors", force=True)
    there = zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.bin", force=True)
    zoo.convert(tmp_path / "b.bin", tmp_path / "c.safetensors", force=True)
    a, c = (open_path(tmp_path / f"{name}.safetensors")[1] for name in "ac")

    assert there.lossless
    assert there.verified
    assert config == a.config == c.config
    assert list(a.tensors) == list(c.tensors)
    assert all(a.tensors[name].load().tobytes() == c.tensors[name].load().tobytes() for name in a.tensors)


def test_added_rows_are_reported(tmp_path, path):
    """The plan names the padding that llm.c wants, on the way there and on the way back; full rows need none."""
    zoo.convert(path, tmp_path / "a.safetensors")
    there = make_plan(tmp_path / "a.safetensors", "llm.c")
    assert there.notes == ["27 rows of zeros follow the embedding's 101: llm.c wants a multiple of 128"]
    assert there.added() == ["wte_padding"]
    assert [drop.name for drop in make_plan(path, "zoo").drops] == ["wte_padding"]

    zoo.save(small_model(PADDED.replace(vocab_rows=128), dtype=torch.float32), tmp_path / "full.safetensors")
    full = make_plan(tmp_path / "full.safetensors", "llm.c")
    assert (full.notes, full.added()) == ([], [])


def test_padding_that_is_no_longer_zero_is_not_dropped(tmp_path, path):
    """A value in the rows that zoo added is refused, not cut off."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, 1024 + 4 * 30 * 101, 0.5)
    path.write_bytes(data)

    with pytest.raises(ZooError, match="wte_padding is not a buffer that follows from the config"):
        zoo.convert(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tied": False}, "tied False"),
        ({"bias": False}, "bias False"),
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"inner_width": 70}, "inner_width 70"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-06"),
        ({"activation": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_llmc_cannot_compute_is_refused(tmp_path, change, reason):
    """llm.c has one architecture; a model that has another is refused by the field that differs."""
    zoo.save(small_model(PADDED.replace(**change), dtype=torch.float32), tmp_path / "a.safetensors")

    with pytest.raises(CannotHold, match=f"it has no place for {reason}"):
        zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.bin", strict=True)
    assert not (tmp_path / "b.bin").exists()


def test_a_dtype_that_llmc_has_not_is_refused(tmp_path, path):
    """float16 is not a version of the file, and neither are two dtypes at once."""
    with pytest.raises(CannotHold, match=r"does not store float16 \(only float32, bfloat16"):
        zoo.convert(path, tmp_path / "b.bin", dtype="float16")

    mixed = small_model(PADDED, dtype=torch.float32)
    mixed.final_norm.to(torch.bfloat16)
    with pytest.raises(CannotHold, match="these are bfloat16, float32; choose one with dtype=NAME"):
        zoo.save(mixed, tmp_path / "b.bin")


def test_a_bfloat16_file_says_who_does_not_read_it(tmp_path, path):
    """train_gpt2.c knows version 3 only; the cast that the note names gives that."""
    report = zoo.convert(path, tmp_path / "half.bin", dtype="bfloat16")
    again = zoo.convert(tmp_path / "half.bin", tmp_path / "whole.bin", dtype="float32")

    note = "llm.c's train_gpt2.c reads float32 only, which --dtype float32 writes"
    assert (note in report.notes, note in again.notes) == (True, False)
    assert (tmp_path / "whole.bin").read_bytes()[4:8] == b"\x03\0\0\0"


def test_casting_to_bfloat16_writes_version_5(tmp_path, path, model):
    """--dtype bfloat16 gives a version 5 file of half the size, padding included."""
    report = zoo.convert(path, tmp_path / "b.bin", dtype="bfloat16")
    data = (tmp_path / "b.bin").read_bytes()

    assert (5, 1024 + (path.stat().st_size - 1024) // 2) == (struct.unpack_from("<i", data, 4)[0], len(data))
    assert not report.lossless
    expected = model.tok_emb.weight.to(torch.bfloat16)
    assert torch.equal(expected, zoo.load(tmp_path / "b.bin").tok_emb.weight)


def test_a_foreign_tokenizer_is_not_forgotten_silently(tmp_path):
    """llm.c keeps the tokenizer elsewhere: a vocabulary that is not GPT-2's is named in the notes."""
    vocabulary = zoo.text.vocabulary.Vocabulary.byte_level(b'{"a": 0, "b": 1}', b"#version: 0.2\n")
    checkpoint = zoo.Checkpoint(tmp_path, PADDED.replace(vocab_rows=128), {}, vocabulary=vocabulary)

    assert get_format("llm.c").unheld(checkpoint) == [
        "llm.c does not store a vocabulary, and this one (byte-level BPE) is not GPT-2's"
    ]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, 4, "not a checkpoint of llm.c in a version that zoo reads"),
        (2, 0, "context_length must be at least 1"),
        (3, -5, "vocab_size must be at least 1"),
        (3, 129, "vocab_rows .128. must be at least vocab_size .129."),
        (4, 2**30, "n_layers must be at most"),
        (5, 0, "n_heads must be at least 1"),
        (5, 7, "n_heads .7. must divide width .30."),
        (6, 2**31 - 1, "n_heads .5. must divide"),
        (7, 2**31 - 1, "bytes where its header asks for"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, place, value, message):
    """Every number of the header is checked before anything is allocated."""
    data = bytearray(build(3, 97, 128, 23, 30, 5, 3))
    struct.pack_into("<i", data, 4 * place, value)
    (tmp_path / "m.bin").write_bytes(data)

    with pytest.raises(FormatError, match=message):
        open_path(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"vocab_rows": 101', b'"vocab_rows": 129', "contradicts the rest"),
        (b'"n_heads": 5', b'"n_heads": 6', "contradicts the rest"),
        (b'"tied": true', b'"tied":false', "contradicts the rest"),
        (b'"n_heads": 5', b'"n_heads": 0', "its zoo.config is impossible"),
        (b'"n_heads": 5', b'"n_heads" : ', "its zoo.config is not valid JSON"),
        (b'"n_heads"', b'"n_headz"', "its zoo.config is impossible: unknown config field"),
    ],
)
def test_a_record_that_contradicts_the_header_is_refused(path, old, new, message):
    """The config that zoo adds counts only where it agrees with the numbers that llm.c reads."""
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new))

    with pytest.raises(FormatError, match=message):
        get_format("llm.c").to_ours(open_path(path)[1])


def test_other_things_in_the_header_are_left_alone(tmp_path):
    """Numbers behind the eighth that are not zoo's record mean nothing."""
    data = bytearray(build(3, 97, 128, 23, 30, 5, 3))
    data[32:64] = bytes(range(32))
    (tmp_path / "m.bin").write_bytes(data)

    assert open_path(tmp_path / "m.bin")[1].config.vocab_rows == 128


def test_the_format_is_known_by_its_magic(tmp_path, path):
    """A file is recognised whatever it is called, also when it is truncated; a directory is none."""
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:700])

    assert detect_format(cut).name == "llm.c"
    with pytest.raises(CorruptFile, match="has a truncated header"):
        open_path(cut)
    assert not get_format("llm.c").sniff(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(tmp_path, path, data):
    """Bytes changed, dropped or added: a ZooError, or a checkpoint whose tensors are all there."""
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(-200, 200))
    content = content[:length] if length < 0 else content + bytes(length) if data.draw(st.booleans()) else content
    broken = tmp_path / "broken.bin"
    broken.write_bytes(content)
    try:
        _, checkpoint = open_path(broken, format="llm.c")
        arrays = loaded(checkpoint)
    except ZooError:
        return

    assert checkpoint.config.parameter_shapes() == {name: array.shape for name, array in arrays.items()}
