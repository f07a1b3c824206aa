"""What zoo exports to ONNX gives our logits in onnxruntime, with and without its cache."""

import json

import numpy as np
import pytest
import torch
from small import SMALL, random_ids, small_model

import zoo
from zoo.errors import ZooError

pytestmark = pytest.mark.peers

VARIANTS = {
    "gpt2": {},
    "untied": {"tied": False},
    "without biases": {"bias": False, "qkv_bias": False},
    "exact gelu, other width": {"activation": "gelu", "inner_width": 70, "norm_eps": 1e-3},
}


def export(directory, changes=None, dtype=None):
    """A small model, and onnxruntime's session of its export."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = small_model(SMALL.replace(**(changes or {})), dtype=torch.float32)
    zoo.save(model, directory / "model.safetensors")
    zoo.convert(directory / "model.safetensors", directory / "onnx", to="onnx", dtype=dtype)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return model, runtime.InferenceSession(str(directory / "onnx" / "model.onnx"), options)


def step(session, ids, past):
    """Run some tokens after a cache; gives logits and the new cache."""
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input_ids": ids, **past}), strict=True))
    return found["logits"], {name.replace("present", "past_key_values"): found[name] for name in names[1:]}


def empty(model, n_rows, dtype=np.float32):
    """A cache of no tokens."""
    shape = (n_rows, model.config.n_heads, 0, model.config.head_size)
    layers = range(model.config.n_layers)
    return {f"past_key_values.{i}.{part}": np.zeros(shape, dtype) for i in layers for part in ("key", "value")}


@pytest.mark.parametrize("name", VARIANTS)
def test_onnxruntime_has_our_logits(tmp_path, name):
    """For a batch at once and in pieces through the cache, to 1e-5 of the largest."""
    model, session = export(tmp_path, VARIANTS[name])
    ids = random_ids(3, 11)
    expected = model(ids).detach().numpy()
    logits, _ = step(session, ids.numpy(), empty(model, 3))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())

    past, parts = empty(model, 3), []
    for piece in np.split(ids.numpy(), [4, 5, 9], axis=1):
        logits, past = step(session, piece, past)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-5 * np.abs(expected).max())


def test_a_cached_greedy_decode_gives_our_tokens(tmp_path):
    """To the end of the context, token by token."""
    model, session = export(tmp_path)
    ids = random_ids(1, 5)
    past, new, found = empty(model, 1), ids.numpy(), []
    for _ in range(18):
        logits, past = step(session, new, past)
        found.append(int(logits[0, -1].argmax()))
        new = np.array([[found[-1]]])
    options = {"max_new_tokens": 18, "temperature": 0.0, "ignore_eos": True}
    assert [token.id for token in zoo.generate(model, ids[0].tolist(), **options)] == found


@pytest.mark.parametrize(("dtype", "kind", "bound"), [("float16", np.float16, 0.02), ("bfloat16", np.float32, 0.06)])
def test_half_precision_weights(tmp_path, dtype, kind, bound):
    """float16 computes in float16; bfloat16 is stored so and computed in float32."""
    model, session = export(tmp_path, dtype=dtype)
    ids = random_ids(2, 9)
    logits, _ = step(session, ids.numpy(), empty(model, 2, kind))
    expected = model(ids).detach().numpy()
    assert logits.dtype == kind
    assert np.abs(logits - expected).max() < bound * np.abs(expected).max()


def test_the_graph_is_valid_and_says_where_it_came_from(tmp_path):
    """onnx's own checker takes it; names and opset are as documented, config and hashes are in its properties."""
    onnx = pytest.importorskip("onnx")
    model, _ = export(tmp_path)
    onnx.checker.check_model(str(tmp_path / "onnx" / "model.onnx"), full_check=True)
    proto = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False)
    assert [20] == [each.version for each in proto.opset_import]
    inputs = [each.name for each in proto.graph.input]
    assert ["input_ids", "past_key_values.0.key", "past_key_values.0.value"] == inputs[:3]
    texts = {each.key: json.loads(each.value) for each in proto.metadata_props}
    assert model.config.to_dict() == texts["zoo.config"]
    assert zoo.content_hash(tmp_path / "model.safetensors") == texts["zoo.provenance"]["content_blake3"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """Exports are reproducible."""
    export(tmp_path)
    zoo.convert(tmp_path / "model.safetensors", tmp_path / "again", to="onnx")
    for name in ("model.onnx", "model.onnx.data", "config.json"):
        assert (tmp_path / "onnx" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_it_is_recognised_but_not_read(tmp_path):
    """Loading it is refused by name."""
    export(tmp_path)
    with pytest.raises(ZooError, match="zoo writes onnx, but does not read it"):
        zoo.load(tmp_path / "onnx")
