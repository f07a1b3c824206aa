import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo.core.statistics import statistics
from zoo.core.stream import write_at
from zoo.core.tensors import LazyTensor, chunks, contiguous, get_dtype, same_bits
from zoo.errors import UnknownName

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.int64]), hnp.array_shapes(max_dims=4, min_side=0, max_side=6)
)


@given(arrays, st.integers(1, 200))
def test_chunks_put_together_are_the_array(array, nbytes):
    """The pieces of an array, in order, are its bytes in C order, whatever their size and its strides."""
    for each in (array, array.T, array[..., ::-1]):
        assert each.tobytes() == b"".join(piece.tobytes() for piece in chunks(each, nbytes))


def test_chunks_of_a_contiguous_array_are_views():
    """Walking through a mapped file copies nothing."""
    array = np.arange(60.0).reshape(12, 5)

    assert all(np.shares_memory(array, piece) for piece in chunks(array, 80))


@given(hnp.arrays(np.float16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=70)))
def test_a_copy_by_panels_is_numpys(array):
    """Laying a transposed array out in C order gives what numpy gives."""
    for each in (array, array.T, array.swapaxes(0, 1)):
        np.testing.assert_array_equal(np.ascontiguousarray(each), contiguous(each))
        assert contiguous(each).flags.c_contiguous


def test_bits_are_compared_not_values():
    """The same NaN is equal to itself, 0.0 is not -0.0, and shape and dtype count."""
    nan = np.array([np.nan, 2.5], np.float32)

    assert same_bits(nan, nan.copy())
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert not same_bits(nan, nan.reshape(2, 1))
    assert not same_bits(np.array([2.5], np.float32), np.array([2.5], np.float64))


def test_casting_rounds_to_the_nearest_even():
    """A cast to bfloat16 happens on loading and rounds as IEEE 754 says."""
    tensor = LazyTensor.of(np.array([1.00390625, 1.01171875, -2.3], np.float32))
    cast = tensor.astype(get_dtype("bfloat16"))

    assert (cast.shape, cast.nbytes) == ((3,), 6)
    assert cast.load().astype(float).tolist() == [1.0, 1.015625, -2.296875]
    assert cast.load().dtype == ml_dtypes.bfloat16


def test_an_unknown_dtype_offers_the_nearest():
    """A misspelt dtype is answered with the right one."""
    with pytest.raises(UnknownName, match="unknown dtype 'bflot16': did you mean bfloat16"):
        get_dtype("bflot16")


def test_write_at_puts_every_tensor_in_its_place(tmp_path):
    """Tensors of any strides land at their offsets in C order, and the digest sees each one's bytes in order."""
    arrays = [np.arange(35, dtype=np.float32).reshape(5, 7).T, np.arange(11, dtype=np.float16) * 0.5]
    path, seen, counted = tmp_path / "file", [b"", b""], []
    path.touch()

    def digest(index, data):
        seen[index] += bytes(data)

    placed = [(3, LazyTensor.of(arrays[0])), (200, LazyTensor.of(arrays[1]))]
    write_at(path, placed, counted.append, digest)
    data = path.read_bytes()

    assert arrays[0].tobytes() == data[3:143] == seen[0]
    assert arrays[1].tobytes() == data[200:] == seen[1]
    assert sum(counted) == 162


def test_an_error_while_loading_ends_the_writing(tmp_path):
    """What a tensor's load raises comes out of write_at."""
    path = tmp_path / "file"
    path.touch()

    def broken():
        raise OSError("cannot load")

    with pytest.raises(OSError, match="cannot load"):
        write_at(path, [(0, LazyTensor((3,), np.dtype(np.float32), broken))])


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=2, max_side=40),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
    )
)
def test_statistics_are_numpys(array):
    """Mean, deviation, range and counts agree with numpy's, over many chunks as over one."""
    finite = array[np.isfinite(array)].astype(np.float64)
    found = statistics(LazyTensor.of(array))

    assert (np.isnan(array).sum(), np.isinf(array).sum()) == (found.nan, found.inf)
    if finite.size:
        expected = (finite.mean(), finite.std(), finite.min(), finite.max())
        np.testing.assert_allclose(expected, (found.mean, found.std, found.min, found.max), rtol=1e-9, atol=1e-9)
    else:
        assert found.to_dict()["mean"] is None
