"""A training step against torch's own functions, and the same step in micro-batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import SMALL, random_ids, small_model

from zoo.errors import TrainingError
from zoo.train.step.adjust import checkpoint_activations, set_dropout
from zoo.train.step.loss import IGNORED, LanguageModelLoss
from zoo.train.step.optimization import fast_dtype, make_optimizer, split, train_step

PLAIN = SMALL.replace(dropout=0.0)


def batch(n=6):
    """Windows as (ids, targets), some targets not counted."""
    ids, targets = split(random_ids(n, 18))
    targets = targets.clone()
    targets[0, 3:9] = IGNORED
    return ids, targets


def parts(ids, targets, sizes):
    """The rows of a batch in parts."""
    return list(zip(ids.split(sizes), targets.split(sizes), strict=True))


def trained(batches, **options):
    """A model after three steps on the same batches, with the last result."""
    model = small_model(PLAIN).train()
    optimizer = make_optimizer(model, lr=0.0, decay="all", weight_decay=0.01)
    for step in range(3):
        done = train_step(LanguageModelLoss(model), optimizer, batches, step=step, lr=1e-2, **options)
    return model, done


def test_a_step_is_torchs():
    """Loss, norm and weights are those of cross_entropy, clip_grad_norm_ and AdamW."""
    ids, targets = batch()
    model, done = trained([(ids, targets)], clip=0.1)
    peer = small_model(PLAIN).train()
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-2, weight_decay=0.01)
    for _ in range(3):
        loss = F.cross_entropy(peer(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.1)
        optimizer.step()

    assert (loss.item(), norm.item(), 6 * 17 - 6) == pytest.approx((done.loss, done.grad_norm, done.n_tokens), rel=1e-9)
    for name, value in peer.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-7, atol=1e-9), name


@pytest.mark.parametrize("sizes", [[2, 2, 2], [5, 1], [1] * 6])
def test_parts_of_any_size_are_the_whole_batch(sizes):
    """Accumulated gradients weight tokens equally, not micro-batches."""
    ids, targets = batch()
    whole, one = trained([(ids, targets)])
    model, other = trained(parts(ids, targets, sizes))
    assert one.loss == pytest.approx(other.loss, rel=1e-9)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-6, atol=1e-9), name


def test_recomputed_activations_change_nothing():
    """With recomputed activations, loss and gradients are bit-identical, also with dropout."""
    found = []
    for recompute in (False, True):
        model = small_model(SMALL).train()
        if recompute:
            checkpoint_activations(model)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            loss = LanguageModelLoss(model)(*batch())
            loss.backward()
        found.append([loss, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_decay_spares_biases_and_norms():
    """Only matrices decay unless decay is "all"."""
    model = small_model()
    sizes = [(len(group["params"]), group["weight_decay"]) for group in make_optimizer(model, lr=1.0).param_groups]
    n = len(list(model.parameters()))
    matrices = sum(parameter.dim() >= 2 for parameter in model.parameters())
    assert [(matrices, 0.1), (n - matrices, 0.0)] == sizes
    assert [(n, 0.1)] == [
        (len(group["params"]), group["weight_decay"])
        for group in make_optimizer(model, lr=1.0, decay="all").param_groups
    ]


@pytest.mark.parametrize(("name", "word"), [("tok_emb.weight", "loss is nan"), ("final_norm.bias", "loss is inf")])
def test_a_loss_that_is_no_number_stops_before_the_weights_change(name, word):
    """The error has the step; weights and optimizer are unchanged."""
    model = small_model(PLAIN).train()
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan if "nan" in word else 1e306)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = make_optimizer(model, lr=1e-2)
    with pytest.raises(TrainingError, match=r"at step 7; lower"):
        train_step(LanguageModelLoss(model), optimizer, [batch()], step=7, lr=1e-2)
    assert not optimizer.state
    assert all(torch.equal(before[key].nan_to_num(), value.nan_to_num()) for key, value in model.state_dict().items())


def test_dropout_is_set_everywhere():
    """set_dropout changes the config and every module."""
    model = small_model(SMALL).train()
    set_dropout(model, 0.0)
    ids, targets = batch()
    loss = LanguageModelLoss(model)
    assert loss(ids, targets).item() == loss(ids, targets).item()
    assert 0.0 == model.config.dropout


def test_the_fast_dtype_is_one_that_autocast_has():
    """The fast dtype is one that autocast supports, on every machine."""
    assert fast_dtype() in ("float32", "bfloat16")
    assert "float32" == fast_dtype("mps")
