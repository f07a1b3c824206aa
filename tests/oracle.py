"""GPT-2 in numpy and float64, written from the papers: slow, plain, and sharing no code with zoo.

Radford et al. (2019) for the model, Vaswani et al. (2017) for attention, Ba et al. (2016) for the norm, Hendrycks and
Gimpel (2016) for GELU. One sequence, one head at a time. The parameters have zoo's names; weights are (out, in).
"""

import math

import numpy as np


def logits(params, ids, *, n_layers, n_heads, norm_eps=1e-5, exact_gelu=False):
    """The logits after every token: T ids -> (T, V)."""
    p = {name: np.asarray(value, dtype=np.float64) for name, value in params.items()}
    x = np.stack([p["tok_emb.weight"][token] + p["pos_emb.weight"][place] for place, token in enumerate(ids)])
    for i in range(n_layers):
        normed = norm(x, p, f"blocks.{i}.norm1", norm_eps)
        x = x + linear(attention(linear(normed, p, f"blocks.{i}.attn.qkv"), n_heads), p, f"blocks.{i}.attn.out")
        normed = norm(x, p, f"blocks.{i}.norm2", norm_eps)
        inner = linear(normed, p, f"blocks.{i}.mlp.up")
        x = x + linear(gelu_exact(inner) if exact_gelu else gelu_tanh(inner), p, f"blocks.{i}.mlp.down")
    x = norm(x, p, "final_norm", norm_eps)
    return x @ p.get("head.weight", p["tok_emb.weight"]).T


def linear(x, p, name):
    """The product x W^T, plus b."""
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def norm(x, p, name, eps):
    """Each row moved to mean 0, scaled to variance 1 (the biased one), then by the weights."""
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
    return scaled * p[f"{name}.weight"] + p.get(f"{name}.bias", 0.0)


def attention(qkv, n_heads):
    """Softmax(q k / sqrt(D)) v of each head, over what came before: (T, 3 C) -> (T, C)."""
    length, width = qkv.shape[0], qkv.shape[1] // 3
    size = width // n_heads
    y = np.zeros((length, width))
    for head in range(n_heads):
        mine = slice(head * size, (head + 1) * size)
        q, k, v = (qkv[:, part * width :][:, mine] for part in range(3))
        for t in range(length):
            scores = k[: t + 1] @ q[t] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            y[t, mine] = weights @ v[: t + 1] / weights.sum()
    return y


def gelu_tanh(x):
    """The approximation that GPT-2 was trained with."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    """GELU: x times the normal distribution function."""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
