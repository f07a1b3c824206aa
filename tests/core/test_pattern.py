import einops
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.core.pattern import parse

PATTERNS = [
    "1 i o -> o i",
    "i o -> o i",
    "n o i -> (n o) i",
    "n o -> (n o)",
    "n i h d -> (n h d) i",
    "h d o -> o (h d)",
    "(h n d) i -> (n h d) i",
    "1 o -> o",
]
SIZES = {"n": 3, "h": 5, "d": 2}
LENGTHS = {**SIZES, "i": 7, "o": 4}


def left_shape(text):
    """The shape that a pattern's left side takes, worked out by hand from LENGTHS."""
    shapes = {
        "1 i o": (1, 7, 4),
        "i o": (7, 4),
        "n o i": (3, 4, 7),
        "n o": (3, 4),
        "n i h d": (3, 7, 5, 2),
        "h d o": (5, 2, 4),
        "(h n d) i": (30, 7),
        "1 o": (1, 4),
    }
    return shapes[text.split("->")[0].strip()]


@pytest.mark.parametrize("text", PATTERNS)
def test_a_pattern_does_what_einops_does(text):
    """Moved values and predicted shape are those of einops.rearrange."""
    array = np.arange(np.prod(left_shape(text))).reshape(left_shape(text))
    used = {name: length for name, length in LENGTHS.items() if name in text}
    expected = einops.rearrange(array, text, **used)

    moved = parse(text).apply(array, SIZES)

    np.testing.assert_array_equal(expected, moved)
    assert expected.shape == parse(text).shape(array.shape, SIZES)


@pytest.mark.parametrize("text", PATTERNS)
def test_a_pattern_and_its_reverse_are_the_identity(text):
    """Going there and back gives every value its place again, in both orders."""
    there, back = parse(text), parse(text).reversed()
    array = np.arange(np.prod(left_shape(text))).reshape(left_shape(text))
    moved = there.apply(array, SIZES)

    np.testing.assert_array_equal(array, back.apply(moved, SIZES))
    np.testing.assert_array_equal(moved, there.apply(back.apply(moved, SIZES), SIZES))


@given(st.permutations("abcd"), st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_any_order_of_axes_is_what_einops_makes_of_it(order, shape):
    """Every permutation of four axes of any lengths agrees with einops."""
    text = f"a b c d -> {' '.join(order)}"
    array = np.arange(np.prod(shape)).reshape(shape)

    np.testing.assert_array_equal(einops.rearrange(array, text), parse(text).apply(array, {}))


def test_splitting_gives_views():
    """Cutting a fused tensor apart copies nothing."""
    array = np.arange(84.0).reshape(12, 7)

    assert np.shares_memory(array, parse("(n o) i -> n o i").apply(array, SIZES))


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("i o -> o i", (3, 4, 5), "3 axes where the layout has 2"),
        ("1 i o -> o i", (2, 3, 4), "an axis of length 2 does not split into 1"),
        ("(n o) i -> n o i", (7, 2), "an axis of length 7 does not split into n x o"),
        ("(i o) -> i o", (6,), "the lengths of i, o are ambiguous"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(text, shape, words):
    """A wrong shape is an error that says what is wrong, never a wrong result."""
    with pytest.raises(ValueError, match=words):
        parse(text).shape(shape, SIZES)


@pytest.mark.parametrize("text", ["i o -> o", "i i -> i i", "i -> i o"])
def test_a_pattern_that_loses_an_axis_is_refused(text):
    """Both sides must have the same axes, each once, or the pattern could not be reversed."""
    with pytest.raises(ValueError, match="each axis must appear once on each side"):
        parse(text)
