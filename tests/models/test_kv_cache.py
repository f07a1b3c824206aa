"""Cached decoding equals decoding without a cache, for equal and unequal rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, random_ids, small_model

from zoo.errors import OptionError
from zoo.models.gpt2.kv_cache import KVCache

MODEL = small_model()
TIGHT = {"rtol": 0, "atol": 1e-12}
"""Float64, values up to 10: only the order of sums differs."""


def new_cache(rows=1, positions=None):
    """A cache for MODEL."""
    return KVCache(SMALL, rows, positions, dtype=torch.float64)


@torch.no_grad()
def test_one_token_at_a_time():
    """Each of 23 tokens, fed alone, gets the logits that the whole sequence gives it."""
    ids, cache = random_ids(1, 23), new_cache()
    whole = MODEL(ids)
    for t in range(23):
        torch.testing.assert_close(MODEL(ids[:, t : t + 1], cache)[:, 0], whole[:, t], **TIGHT)

    assert cache.lengths.tolist() == [23]


@torch.no_grad()
@given(st.sets(st.integers(1, 22)), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_any_chunks(cuts, rows):
    """However a sequence is cut, the logits are those of the whole."""
    ids, cache = random_ids(rows, 23), new_cache(rows)
    parts = [MODEL(part, cache) for part in ids.tensor_split(sorted(cuts), dim=1)]

    torch.testing.assert_close(torch.cat(parts, 1), MODEL(ids), **TIGHT)


@torch.no_grad()
def test_unequal_rows():
    """Rows of 1, 8 and 5 tokens, padded with any ids, continue as each would alone, at every step."""
    lengths = [1, 8, 5]
    ids, more = random_ids(3, 8), random_ids(3, 6, seed=4)
    cache = new_cache(3)
    got = [MODEL(ids, cache, torch.tensor(lengths) - 1)]
    got += [MODEL(more[:, t : t + 1], cache)[:, 0] for t in range(6)]
    for row, length in enumerate(lengths):
        alone = MODEL(torch.cat([ids[row, :length], more[row]])[None])[0, length - 1 :]
        torch.testing.assert_close(torch.stack(got)[:, row], alone, **TIGHT)

    assert cache.lengths.tolist() == [7, 14, 11]


@torch.no_grad()
def test_unequal_rows_take_several_tokens():
    """Rows of unequal length can be given more than one token at once."""
    ids, more, cache = random_ids(2, 7), random_ids(2, 4, seed=4), new_cache(2)
    MODEL(ids, cache, torch.tensor([6, 2]))
    got = MODEL(more, cache)

    torch.testing.assert_close(got[0], MODEL(torch.cat([ids[0], more[0]])[None])[0, 7:], **TIGHT)
    torch.testing.assert_close(got[1], MODEL(torch.cat([ids[1, :3], more[1]])[None])[0, 3:], **TIGHT)


@torch.no_grad()
def test_rows_are_copied():
    """Rows put into another cache, twice or in another order, decode there as before, whatever was there."""
    ids, cache = random_ids(3, 7), new_cache(3)
    MODEL(ids, cache, torch.tensor([6, 2, 4]))
    other = new_cache(4, 9)
    MODEL(random_ids(4, 8, seed=9), other)
    other.put_rows(torch.tensor([2, 0, 1]), cache, torch.tensor([0, 2, 2]))
    got = MODEL(torch.tensor([[11], [12], [13]]), other.first(3))[:, 0]
    rows = ([*ids[2, :5].tolist(), 11], [*ids[2, :5].tolist(), 12], [*ids[0].tolist(), 13])
    for row, expected_ids in enumerate(rows):
        torch.testing.assert_close(got[row], MODEL(torch.tensor([expected_ids]))[0, -1], **TIGHT)

    assert [6, 6, 8, 8] == other.lengths.tolist()


@torch.no_grad()
def test_full_cache_is_refused():
    """A token beyond the capacity of the cache is refused before anything is stored."""
    cache = new_cache(1, 5)
    MODEL(random_ids(1, 5), cache)
    with pytest.raises(OptionError, match="6 tokens do not fit into a context of 5"):
        MODEL(random_ids(1, 1), cache)

    assert cache.lengths.tolist() == [5]
