"""A GPT-2 with the names of nanoGPT's and minGPT's models, written from their documented layout.

Both: Linear layers (out, in), query, key and value in one. nanoGPT (model.py): the head is the embedding, GELU is
exact, biases can be left out. minGPT (mingpt/model.py): the head is free, GELU is the tanh approximation, each
attention has its causal mask as the buffer `bias`.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, n_embd, n_head, block_size, bias, masked):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.n_head = n_head
        if masked:
            self.register_buffer("bias", torch.tril(torch.ones(block_size, block_size))[None, None])

    def forward(self, x):
        shape = (*x.shape[:2], self.n_head, -1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, block_size, bias, masked, approximate):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, bias=bias)
        self.attn = Attention(n_embd, n_head, block_size, bias, masked)
        self.ln_2 = nn.LayerNorm(n_embd, bias=bias)
        layers = {"c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias), "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias)}
        self.mlp = nn.ModuleDict(layers)
        self.approximate = approximate

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=self.approximate))


class Model(nn.Module):
    """Either model; the defaults are nanoGPT's, and its arguments the keys of nanoGPT's model_args."""

    def __init__(self, n_layer, n_head, n_embd, block_size, vocab_size, bias=True, dropout=0.0, minimal=False):
        super().__init__()
        rest = (n_embd, n_head, block_size, bias, minimal, "tanh" if minimal else "none")
        layers = {
            "wte": nn.Embedding(vocab_size, n_embd),
            "wpe": nn.Embedding(block_size, n_embd),
            "h": nn.ModuleList([Block(*rest) for _ in range(n_layer)]),
            "ln_f": nn.LayerNorm(n_embd, bias=bias),
        }
        self.transformer = nn.ModuleDict(layers)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if not minimal:
            self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))

    def configure_optimizer(self, weight_decay=0.1, lr=1e-3, betas=(0.9, 0.99)):
        """The AdamW of nanoGPT's configure_optimizers: only what has two axes decays."""
        decayed = [p for p in self.parameters() if p.dim() >= 2]
        others = [p for p in self.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=betas)


def model_args(config):
    """A zoo config as nanoGPT's model_args."""
    return {
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_embd": config.width,
        "block_size": config.context_length,
        "bias": config.bias,
        "vocab_size": config.vocab_rows,
        "dropout": config.dropout,
    }


def randomize(model, seed=4):
    """Draw every parameter from a wide normal distribution, biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + float(".ln_" in name))
    return model.eval()
