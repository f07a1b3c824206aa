"""The chunked cross-entropy is torch's, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, random_ids, small_model

from zoo.train.step import loss as module
from zoo.train.step.adjust import zero_rows
from zoo.train.step.loss import IGNORED, LanguageModelLoss, linear_cross_entropy


def tensors(n, width, rows, seed, dtype=torch.float64):
    """Random states, weights and targets, some of which do not count."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(rows, width, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(rows, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < 0.2] = IGNORED
    return hidden, weight, targets


@given(st.integers(1, 23), st.integers(1, 7), st.integers(2, 31), st.integers(1, 9), st.integers(0, 99))
def test_value_and_gradients_are_torchs(n, width, rows, chunk, seed):
    """In float64 the two agree up to rounding, for all chunk sizes."""
    hidden, weight, targets = tensors(n, width, rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        mine = linear_cross_entropy(hidden, weight, targets)
        grads = torch.autograd.grad(mine * 0.7, (hidden, weight))
    reference = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum")
    expected = torch.autograd.grad(reference * 0.7, (hidden, weight))

    assert torch.allclose(reference, mine, rtol=1e-12, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(expected, grads, strict=True))


def test_classes_of_zero_rows_are_counted_without_being_computed():
    """The loss with n_zero is the loss with that many rows of zeros, also for targets among them."""
    hidden, weight, targets = tensors(19, 5, 11, 4)
    targets[3] = -1
    mine = linear_cross_entropy(hidden, weight, targets, n_zero=6)
    grads = torch.autograd.grad(mine, (hidden, weight))
    whole = torch.cat([weight, weight.new_zeros(6, 5)])
    reference = F.cross_entropy(
        hidden @ whole.T, targets.where(targets != -1, 13), ignore_index=IGNORED, reduction="sum"
    )
    expected = torch.autograd.grad(reference, (hidden, weight))

    assert torch.allclose(reference, mine, rtol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(expected, grads, strict=True))


def test_extreme_logits_stay_finite():
    """Logits of thousands give large losses and gradients within [-1, 1], as torch's do."""
    hidden, weight, targets = tensors(19, 5, 11, 4, torch.float32)
    loss = linear_cross_entropy(hidden * 4000, weight, targets)
    expected = F.cross_entropy(hidden * 4000 @ weight.T, targets, ignore_index=IGNORED, reduction="sum")
    assert torch.allclose(expected, loss)
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


def test_autocast_gives_the_same_to_the_precision_of_bfloat16():
    """Under autocast, products are bfloat16 and sums are not; gradients have the dtype of the weights."""
    hidden, weight, targets = tensors(40, 30, 97, 4, torch.float32)
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    (grad,) = torch.autograd.grad(loss, weight)
    (expected,) = torch.autograd.grad(exact, weight)

    assert (torch.float32, torch.float32) == (loss.dtype, grad.dtype)
    assert abs(loss - exact) < 0.01 * exact
    assert (grad - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_trains_with_the_ids_it_uses(tied):
    """With all other rows zero, loss and gradients are those of the complete head, except for rows that get no
    gradient.
    """
    model = small_model(SMALL.replace(tied=tied, vocab_rows=101)).train()
    model.config = model.config.replace(dropout=0.0)
    for part in model.modules():
        if hasattr(part, "p"):
            part.p = 0.0
        if hasattr(part, "dropout"):
            part.dropout = 0.0
    ids = random_ids(3, 17) // 2
    used = ids.unique()
    zero_rows(model, used)
    logits = model(ids[:, :-1])[..., :97]
    reference = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    reference.backward()
    head = model.tok_emb if tied else model.head
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = LanguageModelLoss(model, used)(ids[:, :-1], ids[:, 1:])
    loss.backward()

    assert torch.allclose(reference, loss, rtol=1e-12)
    unused = torch.ones(101, dtype=torch.bool).index_fill(0, used, False)
    assert head.weight.grad[unused].count_nonzero() == 0
    for name, parameter in model.named_parameters():
        same = ~unused if parameter is head.weight else slice(None)
        assert torch.allclose(expected[name][same], parameter.grad[same], rtol=1e-9, atol=1e-10), name
