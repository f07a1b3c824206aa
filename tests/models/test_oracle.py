"""The oracle is correct, as far as can be shown without a model."""

import math

import numpy as np
import oracle


def test_gelu():
    """Both GELUs are x Phi(x): they have known values and are close to each other."""
    x = np.array([[-1.0, 0.0, 1.0, 3.0]])
    expected = [[-0.15865525393145707, 0.0, 0.8413447460685429, 2.99595030590511]]

    np.testing.assert_allclose(oracle.gelu_exact(x), expected, rtol=1e-14)
    np.testing.assert_allclose(oracle.gelu_tanh(x), expected, atol=5e-4)
    assert not np.allclose(oracle.gelu_tanh(x), expected, atol=1e-5)


def test_norm():
    """A norm divides by the biased standard deviation, then scales and shifts."""
    p = {"n.weight": np.array([1.0, 2.0, 4.0]), "n.bias": np.array([0.5, 0.0, -1.0])}
    got = oracle.norm(np.array([[0.0, 3.0, 6.0]]), p, "n", 0.25)

    np.testing.assert_allclose(got, [[0.5 - 3 / 2.5, 0.0, 4 * 3 / 2.5 - 1]])


def test_attention_by_hand():
    """With one head of size 1, the second token weighs the first two values by softmax(q k)."""
    q, k, v = [5.0, math.log(2)], [0.0, 2.0], [10.0, 20.0]
    got = oracle.attention(np.array([q, k, v]).T, 1)

    np.testing.assert_allclose(got, [[10.0], [(10 + 4 * 20) / 5]])


def test_attention_of_equal_keys_is_a_running_mean():
    """Heads take neighbouring channels, and equal scores average what came before."""
    v = np.arange(12.0).reshape(3, 4) ** 2
    qkv = np.concatenate([np.ones((3, 4)), np.ones((3, 4)), v], axis=1)
    means = np.stack([v[: t + 1].mean(axis=0) for t in range(3)])

    np.testing.assert_allclose(oracle.attention(qkv, 2), means)


def test_linear_is_out_by_in():
    """Weights are (out, in)."""
    p = {"l.weight": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "l.bias": np.array([10.0, 20.0, 30.0])}

    np.testing.assert_array_equal(oracle.linear(np.array([[1.0, -1.0]]), p, "l"), [[9.0, 19.0, 29.0]])


def test_without_blocks_the_head_reads_the_embeddings():
    """Without layers, the logits are the normed sum of the two embeddings times the head."""
    p = {
        "tok_emb.weight": np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]]),
        "pos_emb.weight": np.array([[0.0, 1.0], [2.0, 0.0]]),
        "final_norm.weight": np.ones(2),
        "head.weight": np.array([[1.0, 0.0], [0.0, 5.0]]),
    }
    got = oracle.logits(p, [1, 0], n_layers=0, n_heads=1, norm_eps=0.0)

    np.testing.assert_allclose(got, [[-1.0, 5.0], [1.0, -5.0]])
