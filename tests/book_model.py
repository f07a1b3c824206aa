"""The GPTModel of "Build a Large Language Model (From Scratch)", written from the book's description of it.

It is the peer that files in the book's format must load into, strictly. Configs are the book's dicts.
"""

import math

import torch
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.scale * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() + self.shift


class GELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.layers(x)


class MultiHeadAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, context = config["emb_dim"], config["context_length"]
        self.n_heads = config["n_heads"]
        self.W_query = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_key = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_value = nn.Linear(width, width, bias=config["qkv_bias"])
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config["drop_rate"])
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1))

    def forward(self, x):
        b, t, c = x.shape
        heads = [
            layer(x).view(b, t, self.n_heads, -1).transpose(1, 2) for layer in (self.W_query, self.W_key, self.W_value)
        ]
        q, k, v = heads
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask.bool()[:t, :t], -torch.inf)
        weights = self.dropout((scores / math.sqrt(q.shape[-1])).softmax(-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(b, t, c))


class TransformerBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.att = MultiHeadAttention(config)
        self.ff = FeedForward(config["emb_dim"])
        self.norm1, self.norm2 = LayerNorm(config["emb_dim"]), LayerNorm(config["emb_dim"])
        self.drop_shortcut = nn.Dropout(config["drop_rate"])

    def forward(self, x):
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class BookModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config["vocab_size"], config["emb_dim"])
        self.pos_emb = nn.Embedding(config["context_length"], config["emb_dim"])
        self.drop_emb = nn.Dropout(config["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(config) for _ in range(config["n_layers"])])
        self.final_norm = LayerNorm(config["emb_dim"])
        self.out_head = nn.Linear(config["emb_dim"], config["vocab_size"], bias=False)

    def forward(self, ids):
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def book_config(config):
    """The book's dict for a GPTConfig."""
    return {
        "vocab_size": config.vocab_rows,
        "context_length": config.context_length,
        "emb_dim": config.width,
        "n_heads": config.n_heads,
        "n_layers": config.n_layers,
        "drop_rate": config.dropout,
        "qkv_bias": config.qkv_bias,
    }
