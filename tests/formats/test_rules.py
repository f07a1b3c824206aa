import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import held_configs

from zoo.core.tensors import LazyTensor, same_bits
from zoo.errors import CheckpointMismatch
from zoo.formats.mapping import strip_prefix, to_ours, to_theirs
from zoo.formats.registry import format_names, get_format
from zoo.formats.rules import Copy, Derived, Rule, Table
from zoo.models.gpt2.config import GPTConfig

PATH = Path("somewhere")
FORMATS = [get_format(name) for name in format_names()]


def random_tensors(shapes, seed=5):
    rng = np.random.default_rng(seed)
    return {name: LazyTensor.of(rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}


CONFIG = GPTConfig(vocab_size=11, context_length=5, width=6, n_heads=2, n_layers=2, inner_width=7)


def toy(copies=(), derived=()):
    """A layout that names everything as zoo does, and differs in one thing: it transposes the square matrix."""
    names = dict.fromkeys(re.sub(r"\.\d+\.", ".{i}.", name) for name in CONFIG.parameter_shapes())
    rules = (Rule(name, name, "i o -> o i" if name == "blocks.{i}.attn.out.weight" else "") for name in names)
    return Table(tuple(rules), copies, derived)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@given(data=st.data(), seed=st.integers(0, 9))
def test_there_and_back_is_the_identity(fmt, data, seed):
    """For every config that a format can hold, its rules and their reverse give back every bit and lose no name."""
    config = data.draw(held_configs(fmt))
    ours = random_tensors(config.parameter_shapes(), seed)
    theirs = to_theirs(fmt.table, ours, config)
    again, _ = to_ours(fmt.table, theirs, config, PATH)

    assert list(ours) == list(again)
    assert all(same_bits(ours[name].load(), again[name].load()) for name in ours)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@given(data=st.data())
def test_a_table_covers_every_parameter_once(fmt, data):
    """Whatever a format can hold, each parameter has one row, and no two names of the format are the same."""
    config = data.draw(held_configs(fmt))
    rows = fmt.table.rows(config)
    theirs = [name for row in rows for name in row.theirs]

    assert sorted(config.parameter_shapes()) == sorted(row.ours for row in rows)
    assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@given(data=st.data())
def test_shapes_and_dtypes_are_told_before_loading(fmt, data):
    """What a lazy tensor says of itself is what loading it gives, in both directions."""
    config = data.draw(held_configs(fmt))
    theirs = to_theirs(fmt.table, random_tensors(config.parameter_shapes()), config)
    shapes = fmt.table.shapes(config)

    for name, tensor in theirs.items():
        assert (tensor.shape, tensor.dtype) == (tensor.load().shape, tensor.load().dtype)
        assert tensor.shape == shapes.get(name, tensor.shape)


def test_the_square_matrix_is_really_transposed():
    """A missing transpose passes every check of shapes; the values show that there is none."""
    ours = random_tensors(CONFIG.parameter_shapes())
    theirs = to_theirs(toy(), ours, CONFIG)
    name = "blocks.1.attn.out.weight"

    np.testing.assert_array_equal(ours[name].load().T, theirs[name].load())


def test_all_differences_are_told_at_once():
    """Missing, unexpected and misshapen tensors are listed together, each by its name."""
    tensors = random_tensors(CONFIG.parameter_shapes())
    del tensors["tok_emb.weight"]
    tensors["extra"] = LazyTensor.of(np.ones(3, np.float32))
    tensors["pos_emb.weight"] = LazyTensor.of(np.ones((6, 5), np.float32))
    tensors["final_norm.bias"] = LazyTensor.of(np.ones(6, np.int64))

    with pytest.raises(CheckpointMismatch) as caught:
        to_ours(toy(), tensors, CONFIG, PATH)

    assert caught.value.problems == [
        "tensor tok_emb.weight (11, 6) is missing",
        "tensor pos_emb.weight has shape (6, 5) where the config asks for (5, 6)",
        "tensor final_norm.bias has dtype int64, which is not a dtype of weights",
        "tensor extra (3,) is unexpected",
    ]


def test_a_tied_copy_is_dropped_only_if_it_is_equal():
    """The drop of a copy carries a check that fails for a copy with one other bit."""
    table = toy(copies=(Copy("copy", "tok_emb.weight", written=True),))
    theirs = to_theirs(table, random_tensors(CONFIG.parameter_shapes()), CONFIG)
    _, (drop,) = to_ours(table, theirs, CONFIG, PATH)
    other = theirs["copy"].load().copy()
    other[3, 2] += 1
    _, (bad,) = to_ours(table, {**theirs, "copy": LazyTensor.of(other)}, CONFIG, PATH)

    assert (drop.name, drop.redundant(), bad.redundant()) == ("copy", True, False)


def test_a_buffer_is_dropped_only_if_it_is_what_the_config_says():
    """A mask may have another dtype, but not another value or shape."""
    mask = np.tril(np.ones((5, 5), np.float32))
    table = toy(derived=(Derived("mask.{i}", lambda config: LazyTensor.of(mask), written=True),))
    theirs = to_theirs(table, random_tensors(CONFIG.parameter_shapes()), CONFIG)
    variants = {"bool": mask.astype(bool), "turned": mask.T, "cut": mask[:4, :4]}
    kept = {}
    for name, variant in variants.items():
        _, drops = to_ours(table, {**theirs, "mask.1": LazyTensor.of(variant)}, CONFIG, PATH)
        kept[name] = [drop.redundant() for drop in drops]

    assert kept == {"bool": [True, True], "turned": [True, False], "cut": [True, False]}


def test_parts_of_different_dtypes_are_refused():
    """Query, key and value can be fused only if they have one dtype."""
    book = get_format("book")
    config = CONFIG.replace(inner_width=24)
    theirs = to_theirs(book.table, random_tensors(config.parameter_shapes()), config)
    name = "trf_blocks.1.att.W_key.weight"
    theirs[name] = theirs[name].astype(np.dtype(np.float16))

    with pytest.raises(CheckpointMismatch, match=r"W_query.weight, trf_blocks.1.att.W_key.weight.* different dtypes"):
        to_ours(book.table, theirs, config, PATH)


def test_a_prefix_is_taken_off_and_remembered():
    """strip_prefix takes the prefix off the names that have it, and says which it was."""
    tensors = random_tensors({"transformer.a": (2,), "lm_head": (3,)})
    both = random_tensors({"transformer.a": (2,), "a": (3,)})

    prefix, bare = strip_prefix(tensors, ("_orig_mod.", "transformer."))

    assert (prefix, list(bare)) == ("transformer.", ["a", "lm_head"])
    assert ("", tensors) == strip_prefix(tensors, ("_orig_mod.",))
    assert list(strip_prefix(both, ("transformer.",))[1]) == ["transformer.a", "a"]


def test_a_table_that_forgets_a_parameter_is_a_bug_that_shows():
    """A format's author who leaves out a rule learns it on the first use."""
    with pytest.raises(AssertionError, match="every parameter once"):
        Table(toy().rules[1:]).rows(CONFIG)
