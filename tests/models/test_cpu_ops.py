"""The training operations against torch's own: values, gradients and random numbers."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from small import SMALL, random_ids, small_model

from zoo.models.gpt2 import cpu_ops, private_ops
from zoo.models.gpt2.cpu_ops import causal_attention, draw_as_torch, draw_quickly, dropout, linear
from zoo.train.step.loss import LanguageModelLoss


def normal(*shape, seed=1, dtype=torch.float64):
    """Random numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def gradients(y, inputs):
    """Of a weighted sum of y, with respect to the inputs."""
    with torch.no_grad():
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((y * weights).sum(), inputs)


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng():
        yield


def test_dropout_is_torchs_to_the_bit():
    """Dropout has torch's mask, factors and gradients, and advances the generator as torch does."""
    found = []
    for function in (lambda x: dropout(x, 0.3, draw_as_torch), lambda x: F.dropout(x, 0.3)):
        torch.manual_seed(5)
        x = normal(7, 11, dtype=torch.float32)
        y = function(x)
        found.append((y, *gradients(y, x), torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.99999, 1.0])
def test_quick_draws_have_the_share_they_say(p):
    """Of a million elements, the number kept is within five standard deviations, and no two rows are alike."""
    torch.manual_seed(5)
    kept, share = draw_quickly((1003, 997), p)
    deviation = (1003 * 997 * share * (1 - share)) ** 0.5
    assert abs(share - (1 - p)) <= 2**-17
    assert abs(int(kept.sum(dtype=torch.int64)) - 1003 * 997 * share) <= 5 * deviation
    if p in (0.1, 0.5):
        rows = kept.double() - share
        correlations = torch.corrcoef(rows[:50]) - torch.eye(50)
        assert correlations.abs().max() < 5 / 997**0.5
        neighbours = (rows[:, 1:] * rows[:, :-1]).mean() / (share * (1 - share))
        assert abs(neighbours) < 5 / (1003 * 996) ** 0.5
    torch.manual_seed(5)
    assert torch.equal(kept, draw_quickly((1003, 997), p)[0])


@pytest.mark.parametrize("block", [1, 4, 17, 128])
def test_attention_is_torchs(block, monkeypatch):
    """With torch's mask, attention is scaled_dot_product_attention with dropout, for all block sizes."""
    monkeypatch.setattr(cpu_ops, "_BLOCK", block)
    qkv = normal(2, 17, 3 * 24)
    torch.manual_seed(5)
    y = causal_attention(qkv, 3, 0.3, draw_as_torch)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    q, k, v = qkv.view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3, is_causal=True).transpose(1, 2).reshape(2, 17, 24)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(expected, y, rtol=1e-12, atol=1e-12)
    assert torch.allclose(*(gradients(each, qkv)[0] for each in (expected, y)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_in_bfloat16_is_near_float64s(p, is_native, monkeypatch):
    """Trained in bfloat16, values and gradients are attention's to bfloat16's precision, multiplied in either dtype."""
    monkeypatch.setattr(cpu_ops, "has_fast_bfloat16", lambda: is_native)
    monkeypatch.setattr(cpu_ops, "_BLOCK", 7)
    narrow = normal(2, 17, 3 * 24, dtype=torch.bfloat16)
    wide = narrow.detach().double().requires_grad_()
    found = []
    for qkv in (wide, narrow):
        torch.manual_seed(5)
        y = causal_attention(qkv, 3, p, draw_as_torch)
        assert qkv.dtype == y.dtype
        found.append([each.double() for each in (y, *gradients(y, qkv))])
    for expected, actual in zip(*found, strict=True):
        assert (expected - actual).norm() <= 2e-2 * expected.norm()


def test_attention_with_quick_draws_is_attention_on_the_average(monkeypatch):
    """The mean of many draws comes to what attention without dropout gives."""
    monkeypatch.setattr(cpu_ops, "_BLOCK", 3)
    qkv = normal(1, 7, 3 * 4).detach()
    torch.manual_seed(5)
    drawn = torch.stack([causal_attention(qkv, 2, 0.3, draw_quickly) for _ in range(4000)])
    expected = causal_attention(qkv, 2, 0.0, draw_quickly)
    assert ((drawn.mean(0) - expected).abs() <= 5 * drawn.std(0) / 4000**0.5 + 1e-12).all()


@pytest.mark.parametrize("gelu", ["", "none", "tanh"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_is_torchs(gelu, autocast, has_bias):
    """linear has torch's values, dtypes and gradients, in float32 and under autocast."""
    inputs = [normal(2, 5, 13, dtype=torch.float32), normal(7, 13, seed=2, dtype=torch.float32)]
    inputs += [normal(7, seed=3, dtype=torch.float32)] * has_bias
    bias = inputs[2] if has_bias else None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = linear(inputs[0], inputs[1], bias, gelu)
        active = F.gelu(inputs[0], approximate=gelu) if gelu else inputs[0]
        expected = F.linear(active, inputs[1], bias)

    assert y.dtype == expected.dtype
    tolerance = {"rtol": 2e-2, "atol": 5e-2} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    assert torch.allclose(expected, y, **tolerance)
    for a, b in zip(gradients(expected, inputs), gradients(y, inputs), strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= (2e-2 if autocast else 1e-5) * a.norm()


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("has_grad", [True, False])
def test_a_bfloat16_product_is_rounded_once(has_grad, is_native, monkeypatch):
    """Whether torch multiplies bfloat16 itself or not, the product is the exact one rounded to bfloat16."""
    monkeypatch.setattr(cpu_ops, "has_fast_bfloat16", lambda: is_native)
    x, weight, bias = (normal(*shape, dtype=torch.bfloat16) for shape in ((2, 5, 13), (7, 13), (7,)))
    exact = F.linear(x.double(), weight.double(), bias.double())
    with torch.set_grad_enabled(has_grad):
        y = linear(x, weight, bias)
    assert torch.bfloat16 == y.dtype
    assert torch.allclose(exact, y.double(), rtol=2**-7, atol=1e-2)


def test_without_the_private_operators_the_public_ones_give_the_same(monkeypatch):
    """Gradients of softmax and GELU agree with torch's where torch has dropped the operators behind them."""
    scores, x = normal(3, 7), normal(5, 11)
    probs, grad = torch.softmax(scores, -1), torch.randn(3, 7, dtype=torch.float64)
    grad_x = torch.randn(5, 11, dtype=torch.float64)
    for has_it in (True, False):
        monkeypatch.setattr(private_ops, "_has_softmax_backward", lambda has_it=has_it: has_it)
        monkeypatch.setattr(private_ops, "_has_gelu_backward", lambda has_it=has_it: has_it)
        (expected,) = torch.autograd.grad(probs, scores, grad, retain_graph=True)
        assert torch.allclose(expected, private_ops.softmax_backward(grad, probs), rtol=1e-12, atol=1e-14)
        for approximate in ("none", "tanh"):
            (expected,) = torch.autograd.grad(F.gelu(x, approximate=approximate), x, grad_x)
            assert torch.allclose(expected, private_ops.gelu_backward(grad_x, x, approximate), rtol=1e-12, atol=1e-14)


def test_a_private_operator_that_is_gone_or_refuses_is_not_used(monkeypatch):
    """The probes return False for a torch without oneDNN's operators, and for an oneDNN that cannot multiply."""

    class Refuses:
        def _linear_pointwise(self, *arguments):
            raise RuntimeError("could not create a primitive descriptor")

        def _is_mkldnn_bf16_supported(self):
            return False

    for operators in (object(), Refuses()):
        monkeypatch.setattr(private_ops, "_mkldnn", lambda operators=operators: operators)
        assert not private_ops.has_onednn_linear.__wrapped__()
        assert not private_ops.has_fast_bfloat16.__wrapped__()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_float32_has_torchs_gradients(tied):
    """With dropout as torch draws it, every gradient is that of the same model computed by torch's own functions."""
    config = SMALL.replace(tied=tied)
    model = small_model(config, dtype=torch.float32).train()
    ids = random_ids(3, 18)
    torch.manual_seed(5)
    loss = LanguageModelLoss(model)(ids[:, :-1], ids[:, 1:])
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_ops, "_ours", lambda x: False)
        expected = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    expected.backward()

    assert torch.allclose(expected, loss, rtol=1e-5)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - found[name]).norm() <= 2e-5 * parameter.grad.norm(), name


def test_a_model_draws_as_it_is_told_everywhere():
    """Embeddings, and in each block the attention and both residual branches draw in this order; the draw can be
    reset.
    """
    model = small_model(SMALL).train()
    calls = []

    def draw(shape, p):
        calls.append(shape)
        return draw_quickly(shape, p)

    model.set_draw(draw)
    model(random_ids(2, 7))
    states, scores = (2, 7, 30), (10, 7, 7)
    assert [states, *(scores, states, states) * 2] == calls
    model.set_draw(draw_as_torch)
    model(random_ids(2, 7))
    assert 7 == len(calls)


STEP = """
import torch, zoo
from zoo.train.step.loss import LanguageModelLoss
torch.set_num_threads(1)
model, ids = zoo.load("stories"), torch.arange(7, 7 + 5 * 19).view(5, 19)
loss = LanguageModelLoss(model)(ids[:, :-1], ids[:, 1:])
loss.backward()
print(torch.backends.cpu.get_cpu_capability(), loss.item(), model.final_norm.weight.grad.norm().item())
"""


def test_bfloat16_weights_have_gradients_on_every_processor():
    """Where oneDNN has no bfloat16 products, loss and gradient are torch's own, and near those of this processor."""
    cut = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    found = []
    for variables in ({}, cut):
        done = subprocess.run([sys.executable, "-c", STEP], env=os.environ | variables, capture_output=True, text=True)
        assert 0 == done.returncode, done.stderr
        found.append(done.stdout.split())
    assert "AVX512" not in found[1][0]
    assert [float(each) for each in found[1][1:]] == pytest.approx([float(each) for each in found[0][1:]], rel=1e-2)
