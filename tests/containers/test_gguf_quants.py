import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zoo.containers.gguf.quants import QUANTS, decoded, dequantise, encoded, nbytes, quantise
from zoo.core.tensors import LazyTensor

WRITTEN = [name for name, quant in QUANTS.items() if quant.encode]
F4 = np.float32


def half(number):
    return struct.pack("<e", number)


def away_from_zero(number):
    """C's roundf."""
    return math.copysign(math.floor(abs(float(number)) + 0.5), number)


def q8_0(values):
    """quantize_row_q8_0_ref of ggml-quants.c, a value at a time."""
    d = max(abs(F4(v)) for v in values) / F4(127)
    scale = F4(1) / d if d else F4(0)
    return half(d) + bytes(int(away_from_zero(F4(v) * scale)) % 256 for v in values)


def symmetric(values, half_range):
    """The numbers of quantize_row_q4_0_ref and quantize_row_q5_0_ref."""
    largest = max(values, key=abs)  # max keeps the first of equals, as ggml does
    d = F4(largest) / F4(-half_range)
    scale = F4(1) / d if d else F4(0)
    return d, [min(2 * half_range - 1, int(F4(v) * scale + F4(half_range + 0.5))) for v in values]


def q4_0(values):
    d, numbers = symmetric(values, 8)
    return half(d) + bytes(numbers[i] | numbers[i + 16] << 4 for i in range(16))


def q5_0(values):
    d, numbers = symmetric(values, 16)
    high = sum((number >> 4) << i for i, number in enumerate(numbers))
    return half(d) + struct.pack("<I", high) + bytes(numbers[i] & 15 | (numbers[i + 16] & 15) << 4 for i in range(16))


PLAIN = {"Q8_0": q8_0, "Q4_0": q4_0, "Q5_0": q5_0}


def test_blocks_of_known_bytes():
    """Counting from -16 to 15: the value that is largest in size decides the scale and becomes the lowest number."""
    ramp = np.arange(-16, 16, dtype=F4).reshape(1, 32)

    q4 = quantise(ramp, "Q4_0").tobytes()
    # d is 2: -16 is number 0, 0 is 8, 15 would be 16 and is cut to 15; numbers 0 and 16 of the block share a byte.
    assert half(2) + bytes([0x80, 0x91, 0x91, 0xA2, 0xA2, 0xB3, 0xB3, 0xC4]) == q4[:10]
    q5 = quantise(ramp, "Q5_0").tobytes()
    assert half(1) + b"\x00\x00\xff\xff" + bytes(i | i << 4 for i in range(16)) == q5
    q8 = quantise(ramp[:, ::-1] * 127 / 16, "Q8_0").tobytes()
    assert half(1) + bytes([119, 111, 103]) == q8[:5]


def halves():
    """Integers and halves, which lie where rounding decides, and zeros."""
    return arrays(F4, (3, 64), elements=st.sampled_from([-4.0, -2.5, -1.0, -0.5, 0.0, 0.5, 1.5, 2.0, 3.5, 4.0]))


def anything():
    """Values that a float16 scale can hold."""
    return arrays(F4, (2, 32), elements=st.floats(-5e5, 5e5, width=32).map(lambda v: v if abs(v) > 1e-20 else 0.0))


@given(values=st.one_of(halves(), anything()), name=st.sampled_from(WRITTEN))
def test_quantising_is_ggmls_arithmetic(values, name):
    """The blocks are those of ggml's C code, written out a value at a time."""
    plain = b"".join(PLAIN[name](block.tolist()) for block in values.reshape(-1, 32))

    assert plain == quantise(values, name).tobytes()


@given(values=arrays(F4, (2, 32), elements=st.floats(-5e5, 5e5, width=32)), name=st.sampled_from(WRITTEN))
def test_values_are_at_most_a_step_off(values, name):
    """Whatever the values (tiny ones vanish), half a step is lost, a whole one at the end of the scale's other side."""
    again = dequantise(quantise(values, name).view(QUANTS[name].block), name, values.shape)
    largest = np.abs(values).max(1, keepdims=True)
    steps = {"Q8_0": 254, "Q5_0": 16, "Q4_0": 8}[name]

    # The scale is rounded to float16: one part in 2048, or the least step 6e-8 times the largest number 127.
    assert (np.abs(again - values) <= largest / steps * 1.01 + largest / 2000 + 127 * 6e-8).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_large_and_strided_arrays_give_the_same_blocks(name):
    """Pieces, transposed arrays and narrower dtypes change nothing."""
    wide = np.random.default_rng(1).normal(size=(96, 3000)).astype(np.float16)
    expected = b"".join(PLAIN[name](block.tolist()) for block in wide.T[:7].astype(F4).reshape(-1, 32))
    found = quantise(wide.T, name)

    assert nbytes(name, (3000, 96)) == found.size
    assert expected == found[: len(expected)].tobytes()
    assert quantise(np.ascontiguousarray(wide.T).astype(F4), name).tobytes() == found.tobytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_lazy_tensors_go_there_and_back(name):
    """What is encoded decodes to what the blocks say, in float32 and in the old shape."""
    tensor = LazyTensor.of(np.random.default_rng(2).normal(size=(5, 64)))
    stored = encoded("x", LazyTensor.of(tensor.load().astype(F4)), name)
    again = decoded(stored, name, (5, 64))

    assert (stored.shape, stored.dtype) == ((nbytes(name, (5, 64)),), np.uint8)
    assert (again.shape, again.dtype) == ((5, 64), F4)
    np.testing.assert_allclose(again.load(), tensor.load(), atol=0.3)


@pytest.mark.peers
@pytest.mark.parametrize("name", WRITTEN)
def test_quantising_is_that_of_the_gguf_package(name):
    """PyPI's gguf makes the same bytes of normal, wide, tiny, constant and zero values."""
    gguf = pytest.importorskip("gguf")
    generator = np.random.default_rng(3)
    normal = generator.normal(size=(64, 96)).astype(F4)
    several = [
        normal,
        (normal * 10.0 ** generator.integers(-6, 4, normal.shape)).astype(F4),
        normal * F4(1e-8),
        np.repeat(normal[:, :1], 96, 1),
        np.zeros_like(normal),
        generator.integers(-5, 5, normal.shape).astype(F4) / 2,
    ]
    for values in several:
        theirs = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
        assert theirs.tobytes() == quantise(values, name).tobytes()


@pytest.mark.peers
@pytest.mark.parametrize("name", QUANTS)
def test_dequantising_is_that_of_the_gguf_package(name):
    """Of random blocks, and so of every bit pattern of scales and numbers, PyPI's gguf makes the same float32."""
    gguf = pytest.importorskip("gguf")
    block, kind = QUANTS[name].block, gguf.GGMLQuantizationType[name]
    raw = np.random.default_rng(4).integers(0, 256, (3000, block.itemsize), np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(raw, kind)
    ours = dequantise(raw.reshape(-1).view(block), name, theirs.shape)

    assert gguf.GGML_QUANT_SIZES[kind] == (QUANTS[name].values, block.itemsize)
    same = theirs.view(np.uint32) == ours.view(np.uint32)
    assert (same | np.isnan(theirs) & np.isnan(ours)).all()
    assert same[np.isfinite(theirs)].all()
