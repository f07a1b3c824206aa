"""Zoo files with matrices of eight and four bits: read by others' code, run as they are, converted onward."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import SMALL, random_ids, small_model
from strategies import configs

import zoo
from zoo.cli.main import main
from zoo.containers.quantized import dequantize, quantize
from zoo.engine import Engine, is_built
from zoo.errors import CannotHold, CorruptFile, FormatError
from zoo.formats.opening import open_path

KINDS = ["int8", "int4"]
WIDE = zoo.GPTConfig(vocab_size=151, context_length=37, width=140, n_heads=4, n_layers=2, inner_width=73)
"""Of more than one block of 128 columns, and of less than one."""

needs_engine = pytest.mark.skipif(not is_built(), reason="the C library was not built here")


def made(path, kind, config=WIDE, dtype=torch.float32):
    """A file of random weights, the same quantised, and the model."""
    model = small_model(config, dtype=dtype)
    zoo.save(model, path / "plain.safetensors")
    zoo.convert(path / "plain.safetensors", path / "small.safetensors", dtype=kind)
    return path / "plain.safetensors", path / "small.safetensors", model


def meaning(raw, scales, kind, columns):
    """What numbers and scales stand for, one bit field after the other, by the words of the format's description."""
    n = {"int8": 4, "int4": 8}[kind]  # columns in a word
    values = np.zeros((16 * len(raw), columns), np.float32)
    for row, column in np.ndindex(values.shape):
        block, lane = divmod(row, 16)
        word, inside = divmod(column, n)
        bits = int(raw[block, word, lane]) >> (32 // n * (inside // 2) + 16 * (inside % 2)) & (1 << 32 // n) - 1
        number = bits - (1 << 32 // n) if bits >> (32 // n - 1) else bits
        values[row, column] = np.float32(number) * (
            scales[row] if kind == "int8" else scales[block, column // 32, lane]
        )
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_what_its_description_says(tmp_path, kind):
    """The safetensors package reads it; bits taken apart one by one are near the weights and what zoo makes of them."""
    _, small, model = made(tmp_path, kind)
    raw, state = load_file(small), model.state_dict()
    _, opened = open_path(small)

    with safe_open(small, "pt") as file:
        assert file.metadata()["zoo.encoding"] == kind
    quantised = [name for name in raw if f"{name}.scales" in raw]
    assert len(quantised) == 1 + 4 * WIDE.n_layers
    for name in quantised:
        scales = raw[f"{name}.scales"].float().numpy()
        bits = "int8" if name == "tok_emb.weight" else kind  # whose four bits would cost most
        rows, columns = state[name].shape
        if bits == "int8":
            scales = np.pad(scales, (0, -rows % 16))
        values = meaning(raw[name].numpy(), scales, bits, columns)[:rows]
        assert (values == opened.tensors[name].load()).all()
        steps = scales[:rows, None]
        if bits == "int4":
            steps = np.repeat(scales.transpose(0, 2, 1).reshape(-1, scales.shape[1]), 32, axis=1)[:rows, :columns]
        # A weight is at most half a step away, but for those that int4 cuts off at its ends, by under two steps.
        far = np.abs(values - state[name].numpy()) / np.abs(steps)
        assert far.max() <= (0.5001 if bits == "int8" else 2)
        assert far.mean() < 0.3
    others = [name for name in state if name in raw and name not in quantised]
    assert all(torch.equal(state[name], raw[name]) for name in others)
    assert {"pos_emb.weight", "final_norm.weight", "blocks.1.attn.qkv.bias"} <= set(others)


@needs_engine
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_engine_runs_it_as_if_it_had_quantised_itself(tmp_path, kind, dtype, monkeypatch):
    """Logits are those of `quantize` on the plain file, to the bit; nothing is quantised again, and nothing copied."""
    plain, small, _ = made(tmp_path, kind, dtype=dtype)
    ids = random_ids(30, vocab_size=151).numpy()
    expected = Engine.open(plain, quantize=kind, threads=1)
    monkeypatch.setattr("zoo.engine.weights.quantize", None)

    for again in (None, kind):
        engine = Engine.open(small, quantize=again, threads=1)
        assert (expected.verify(ids, expected.new_cache()) == engine.verify(ids, engine.new_cache())).all()
        assert expected.nbytes == engine.nbytes
        numbers = [a for a in engine._handle.weights._held if isinstance(a, np.ndarray) and a.dtype == np.int32]
        assert len(numbers) == 10  # the embedding is the head, too
        assert not any(array.flags.owndata for array in numbers)


@needs_engine
@settings(max_examples=25)
@given(config=configs(vocab_size=13, vocab_rows=15), kind=st.sampled_from(KINDS))
def test_torch_loads_the_values_it_stands_for(tmp_path_factory, config, kind):
    """zoo.load gives a float32 model whose logits are the engine's, to 16-bit activations; models of every shape."""
    _, small, _ = made(tmp_path_factory.mktemp("any"), kind, config)
    engine, model = Engine.open(small, threads=1), zoo.load(small)
    ids = random_ids(config.context_length, vocab_size=13)
    with torch.inference_mode():
        expected = model(ids[None])[0, :, :13].numpy()

    assert model.tok_emb.weight.dtype == torch.float32
    assert np.abs(expected - engine.verify(ids.numpy(), engine.new_cache())).max() <= 1e-2 * np.abs(expected).max()


@needs_engine
def test_a_dtype_asks_for_the_values(tmp_path):
    """With a dtype, or another way of quantising, the engine starts from the values that the file stands for."""
    _, small, _ = made(tmp_path, "int8")
    zoo.convert(small, tmp_path / "wide.safetensors")
    ids = random_ids(9, vocab_size=151).numpy()

    for options in ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantize": "int4"}):
        engines = [Engine.open(path, threads=1, **options) for path in (small, tmp_path / "wide.safetensors")]
        first, second = (engine.verify(ids, engine.new_cache()) for engine in engines)
        assert (first == second).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["huggingface", "gguf", "keras-hub"])
def test_converting_onward_writes_the_values_in_float32(tmp_path, kind, to):
    """Every format gets what the matrices stand for, and is told where that came from; the way back is lossless."""
    _, small, _ = made(tmp_path, kind)
    report = zoo.convert(small, tmp_path / "there", to=to)
    expected, found = zoo.load(small).state_dict(), zoo.load(tmp_path / "there").state_dict()

    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(kind in note and "float32" in note for note in report.notes)
    assert zoo.content_hash(small) == zoo.content_hash(tmp_path / "there")


@pytest.mark.parametrize("kind", KINDS)
def test_quantising_what_is_quantised_so_changes_nothing(tmp_path, kind):
    """int8 to int8 has the same tensors, bit for bit: they are copied, not rounded again."""
    _, small, _ = made(tmp_path, kind)
    zoo.convert(small, tmp_path / "again.safetensors", dtype=kind)
    first, second = load_file(small), load_file(tmp_path / "again.safetensors")

    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_records_where_it_came_from_and_says_what_it_is(tmp_path, kind):
    """Provenance has the source's hash and the encoding; inspect names kind, sizes and note; sizes add up."""
    plain, small, _ = made(tmp_path, kind)
    shown = json.loads(CliRunner().invoke(main, ["inspect", "--json", str(small)]).stdout)

    assert shown["provenance"]["encoding"] == kind
    assert list(shown["provenance"]["source_blake3"]) == [plain.name]
    assert kind in shown["notes"][0]
    stored = {name: (tensor["shape"], tensor["dtype"]) for name, tensor in shown["tensors"].items()}
    assert ([151, 140], "int8") == stored["tok_emb.weight"]
    assert ([140, 140], kind) == stored["blocks.0.attn.out.weight"]
    assert shown["tensors"]["pos_emb.weight"]["dtype"] == "float32"
    assert list(shown["tensors"]) == list(WIDE.parameter_shapes())
    raw = load_file(small)
    assert sum(t["bytes"] for t in shown["tensors"].values()) == sum(t.nbytes for t in raw.values())


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_smaller_by_what_is_promised(tmp_path, kind):
    """A matrix of whole blocks takes 8 bits a weight and 32 a row, or 4.5 bits a weight."""
    config = WIDE.replace(width=256, inner_width=384)
    _, small, _ = made(tmp_path, kind, config)
    tensors = load_file(small)
    rows, columns = 768, 256
    nbytes = sum(tensors[f"blocks.0.attn.qkv.weight{part}"].nbytes for part in ("", ".scales"))

    assert nbytes == (rows * columns + 4 * rows if kind == "int8" else rows * columns * 4.5 / 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_not_quantised(tmp_path, kind, value):
    """The tensor is named, and no output appears."""
    model = small_model(SMALL, dtype=torch.float32)
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 4] = value
    zoo.save(model, tmp_path / "a.safetensors")
    with pytest.raises(CannotHold, match=r"blocks.1.mlp.up.weight cannot be stored as int"):
        zoo.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=kind)

    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def without_scales(tensors, metadata):
    del tensors["blocks.0.mlp.up.weight.scales"]


def without_numbers(tensors, metadata):
    del tensors["tok_emb.weight"]


def of_another_shape(tensors, metadata):
    tensors["blocks.0.mlp.up.weight"] = tensors["blocks.0.mlp.up.weight"][:-1].clone()


def of_another_dtype(tensors, metadata):
    tensors["blocks.0.mlp.up.weight.scales"] = tensors["blocks.0.mlp.up.weight.scales"].half()


def of_the_other_kind(tensors, metadata):
    metadata["zoo.encoding"] = "int8" if metadata["zoo.encoding"] == "int4" else "int4"


def of_no_kind(tensors, metadata):
    del metadata["zoo.encoding"]


def of_a_kind_to_come(tensors, metadata):
    metadata["zoo.encoding"] = "int3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "error", "problem"),
    [
        (without_scales, CorruptFile, "mlp.up.weight and its scales"),
        (without_numbers, CorruptFile, "tok_emb.weight and its scales"),
        (of_another_shape, CorruptFile, "mlp.up.weight and its scales"),
        (of_another_dtype, CorruptFile, "mlp.up.weight and its scales"),
        (of_the_other_kind, CorruptFile, "attn.qkv.weight and its scales"),
        (of_no_kind, zoo.ZooError, "unexpected"),
        (of_a_kind_to_come, FormatError, "'int3', which this version of zoo does not know"),
    ],
)
def test_damaged_files_are_told(tmp_path, kind, damage, error, problem):
    """Numbers without scales, of other shapes or kinds: one sentence, before anything is used."""
    _, small, _ = made(tmp_path, kind)
    with safe_open(small, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(small)
    damage(tensors, metadata)
    save_file(tensors, tmp_path / "damaged.safetensors", metadata)

    with pytest.raises(error, match=problem):
        zoo.load(tmp_path / "damaged.safetensors")


@needs_engine
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_and_runs_it(tmp_path, kind):
    """`convert --dtype int4`, then `generate` on the file: the text of `generate --quantize int4` on the first."""
    plain, small = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    zoo.save(zoo.create("test-tiny", seed=1), plain)
    done = CliRunner().invoke(main, ["convert", "--source", plain, "--out", small, "--dtype", kind])
    texts = [
        CliRunner().invoke(main, ["generate", "-t", "0", "-n", "20", "-m", *model, "Every effort"]).stdout
        for model in ([plain, "--quantize", kind], [small], [small, "--quantize", kind])
    ]

    assert f"matrices as {kind}" in done.output
    assert "read back and equal bit for bit" in done.output
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) > len("Every effort\n")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_any_size_are_quantised(kind):
    """From subnormal numbers to huge ones, and rows of zeros: nothing becomes NaN, all is near."""
    weight = np.random.default_rng(3).standard_normal((37, 70)).astype(np.float32)
    weight *= np.logspace(-44, 17, 37, dtype=np.float64)[:, None]
    weight[5] = 0

    values = dequantize(quantize(weight, kind))

    assert np.isfinite(values).all() and (values[5] == 0).all()
    large = np.abs(weight).max(1) > 1e-36
    rough = np.abs(weight).max(1, keepdims=True) * (0.005 if kind == "int8" else 0.15)
    assert (np.abs(values - weight) <= rough)[large].all()
