"""The windows of a token stream, their order, and their distribution among processes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from zoo.errors import OptionError
from zoo.train.data.windows import Batches, Windows, book_permutation, draw_base_seed
from zoo.train.step.evaluation import cover
from zoo.train.step.loss import IGNORED


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 12))
def test_windows_are_those_of_the_books_loop(n, context, stride):
    """Windows start every stride tokens while a token follows them, as in the book's dataset."""
    tokens = np.arange(100, 100 + n).astype(np.uint16)
    starts = list(range(0, n - context, stride))
    if not starts:
        with pytest.raises(OptionError, match="not enough for one window"):
            Windows(tokens, context, stride)
        return
    windows = Windows(tokens, context, stride)
    expected = [list(range(100 + start, 101 + start + context)) for start in starts]
    assert expected == windows[list(range(len(windows)))].tolist()


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 5))
def test_an_epoch_visits_windows_once(n, batch_size, epoch):
    """No window comes twice in an epoch, and an incomplete last batch is dropped."""
    batches = Batches(n, batch_size, seed=5)
    first = epoch * batches.steps_per_epoch
    seen = [i for step in range(first, first + batches.steps_per_epoch) for i in batches[step]]
    assert len(set(seen)) == len(seen) > n - min(batch_size, n)
    assert set(seen) <= set(range(n))


def test_the_order_follows_from_seed_and_step_alone():
    """Steps can be requested in any order; another seed or epoch gives another order."""
    forward = [Batches(17, 3, seed=9)[step] for step in range(12)]
    batches = Batches(17, 3, seed=9)
    backward = [batches[step] for step in reversed(range(12))]
    assert forward == backward[::-1]
    assert forward[:5] != forward[5:10]
    assert forward[0] != Batches(17, 3, seed=10)[0]
    assert [[0, 1, 2], [3, 4, 5]] == [Batches(17, 3, order="sequential")[step] for step in (0, 6)]


def test_the_books_order_is_torchs_dataloader():
    """The book's order and torch's DataLoader draw the same numbers from torch's global generator, pass after pass."""
    with torch.random.fork_rng():
        torch.manual_seed(123)
        loader, plain = DataLoader(range(18), batch_size=2, shuffle=True), DataLoader(range(3))
        expected = []
        for _ in range(3):
            expected.append([i for batch in loader for i in batch.tolist()])
            list(plain)
        after = torch.rand(()).item()

        torch.manual_seed(123)
        found = []
        for _ in range(3):
            found.append(book_permutation(18).tolist())
            draw_base_seed()
        assert (expected, after) == (found, torch.rand(()).item())


@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 12), st.integers(1, 3))
def test_evaluation_predicts_every_token_once(n, context, stride, batch_size):
    """For every stride, each token except the first is a target once, after the tokens that precede it."""
    tokens = np.arange(100, 100 + n).astype(np.uint16)
    targets = []
    for ids, wanted in cover(tokens, context, stride, batch_size=batch_size):
        assert ids.shape == wanted.shape
        assert ids.shape[1] <= context
        counted = wanted != IGNORED
        assert torch.equal(ids[counted] + 1, wanted[counted])
        targets += wanted[counted].tolist()
    assert list(range(101, 100 + n)) == sorted(targets)


@given(st.integers(1, 9), st.integers(1, 13), st.integers(1, 5))
def test_processes_share_out_a_step(size, batch_size, micro_batch_size):
    """Together, the processes have each window of a step once, in equally many micro-batches; only the last of them
    may be one window larger.
    """
    batch_size = max(size, batch_size)
    batches = Batches(17, batch_size, seed=3)
    shares = [batches.share(0, rank, size, micro_batch_size) for rank in range(size)]
    assert 1 == len({len(parts) for parts in shares})
    assert sorted(batches[0]) == sorted(window for parts in shares for part in parts for window in part)
    assert all(0 < len(part) <= micro_batch_size for parts in shares for part in parts[:-1])
    assert all(0 < len(parts[-1]) <= micro_batch_size + 1 for parts in shares)
