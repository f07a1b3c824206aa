"""GPT-2 in the order of the paper: embeddings, pre-norm transformer blocks, final norm, head.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019). Shapes in trailing comments: B batch, T
tokens, S tokens seen (cached and new), C width, H heads, D head size, V vocabulary rows, I inner width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.mapped import MappedFiles
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.cpu_ops import Draw, causal_attention, draw_as_torch, dropout, linear
from zoo.models.gpt2.kv_cache import KVCache
from zoo.text.tokenizer import Tokenizer


class _EmptyOnMeta(nn.Module):
    """Skips initialisation on the meta device, which has no values; for it, torch would import 800 modules in a
    second.
    """

    weight: Any

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()  # type: ignore[misc]


class Linear(_EmptyOnMeta, nn.Linear):
    """torch's Linear, applied after a GELU if `approximate` is given."""

    def forward(self, x: Tensor, gelu: str = "") -> Tensor:
        return linear(x, self.weight, self.bias, gelu)


class Embedding(_EmptyOnMeta, nn.Embedding):
    """torch's Embedding."""


class LayerNorm(_EmptyOnMeta, nn.LayerNorm):
    """torch's LayerNorm."""


class Dropout(nn.Dropout):
    """torch's Dropout, with a replaceable function that draws the masks."""

    draw: Draw = staticmethod(draw_as_torch)

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.draw) if self.training else x


class Attention(nn.Module):
    """Causal multi-head self-attention that computes query, key and value in one product."""

    draw: Draw = staticmethod(draw_as_torch)

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.out = Linear(config.width, config.width, bias=config.bias)

    def forward(self, x: Tensor, seen: Seen | None, layer: int) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x)  # (B, T, 3C)
        if seen is None:
            p = self.dropout if self.training else 0.0
            return self.out(causal_attention(qkv, self.n_heads, p, self.draw))
        q, k, v = qkv.view(b, t, 3, self.n_heads, c // self.n_heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        k, v = seen.cache.put(layer, k, v, seen.positions, seen.end)  # (B, H, S, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.mask, is_causal=seen.is_causal)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.inner_width, bias=config.bias)
        self.down = Linear(config.inner_width, config.width, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        wide = self.up(x)  # (B, T, I)
        if isinstance(self.down, Linear):
            return self.down(wide, self.approximate)  # (B, T, C)
        return self.down(F.gelu(wide, approximate=self.approximate))  # with adapters


class Block(nn.Module):
    """Attention, then the MLP, each after a layer norm and with a residual connection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.norm_eps, bias=config.bias)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.width, config.norm_eps, bias=config.bias)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Seen | None, layer: int) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), seen, layer))
        return x + self.drop(self.mlp(self.norm2(x)))


class GPTModel(nn.Module):
    """A GPT-2. GPTConfig.parameter_shapes has the names and order of its parameters.

    The constructor initialises with torch's defaults; `zoo.create` draws weights as GPT-2 does, `zoo.load` reads them.

    Attributes:
        config: The architecture.
        tokenizer: Tokenizer for this model's ids; GPT-2's unless the checkpoint has its own.
        mapped_files: Files that the weights are mapped from, as they were then; None if they are in memory.
    """

    mapped_files: MappedFiles | None = None

    def __init__(self, config: GPTConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer or Tokenizer()
        self.tok_emb = Embedding(config.vocab_rows, config.width)
        self.pos_emb = Embedding(config.context_length, config.width)
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.final_norm = LayerNorm(config.width, config.norm_eps, bias=config.bias)
        # None if tied: the head then uses tok_emb.weight itself, so that no second name has to be kept equal.
        self.head = None if config.tied else Linear(config.width, config.vocab_rows, bias=False)

    def set_draw(self, draw: Draw) -> None:
        """Set how dropout draws its masks on the CPU: draw_as_torch (the default) or draw_quickly, both from
        cpu_ops.
        """
        for module in self.modules():
            if isinstance(module, Attention | Dropout):
                module.draw = draw

    def forward(self, ids: Tensor, cache: KVCache | None = None, last: Tensor | None = None) -> Tensor:
        """Return the logits that follow each token.

        Args:
            ids: Token ids, (B, T) int64.
            cache: KV cache of earlier tokens, to which the new ones are added. Without one, ids start at position 0.
            last: Index of each row's last real token, (B,) int64, if rows are padded on the right with any ids. Only
                the logits after this token are computed, and only tokens up to it are cached.

        Returns:
            Logits in the dtype of the weights, (B, T, V), or (B, V) if `last` is given. Columns from vocab_size on are
            padding.

        Raises:
            OptionError: There are more tokens than fit into the context or the cache.
        """
        return self.logits(self.hidden(ids, cache, last))

    def hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        last: Tensor | None = None,
        *,
        embedded: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states after the final norm, (B, T, C), or (B, C) if `last` is given.

        Arguments and errors are those of forward. `embedded` is tok_emb(ids), (B, T, C), if it is already known.
        """
        b, t = ids.shape
        seen = Seen(cache, b, t) if cache is not None else None
        positions = seen.positions if seen else torch.arange(t, device=ids.device)
        room = cache.capacity if cache is not None else self.config.context_length
        if (end := seen.end if seen else t) > room:
            raise OptionError(f"{end} tokens do not fit into a context of {room}; use fewer tokens")
        x = self.tok_emb(ids) if embedded is None else embedded
        x = self.drop(x + self.pos_emb(positions))  # (B, T, C)
        for layer, block in enumerate(self.blocks):
            x = block(x, seen, layer)
        if cache is not None:
            cache.lengths += t if last is None else last + 1
        if last is not None:
            x = x[torch.arange(b, device=x.device), last]  # (B, C)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head: (..., C) -> (..., V)."""
        return linear(hidden, self.tok_emb.weight if self.head is None else self.head.weight, None)


class Seen:
    """Positions and mask of a step's new tokens among the cached ones, computed once for all layers.

    Attributes:
        cache: The cache.
        positions: Positions of the new tokens, (B, T) int64.
        end: Largest position + 1.
        mask: Positions that each new token attends to, (B, 1, T, S) bool; None if is_causal or nothing is masked.
        is_causal: Whether plain causal attention is correct, because nothing was cached before.
    """

    def __init__(self, cache: KVCache, b: int, t: int) -> None:
        if b != len(cache.lengths):
            raise OptionError(f"{b} rows of ids do not fit a cache of {len(cache.lengths)} rows")
        self.cache = cache
        device = cache.lengths.device
        self.positions = cache.lengths[:, None] + torch.arange(t, device=device)
        first, self.end = int(cache.lengths.min()), int(cache.lengths.max()) + t
        self.is_causal = self.end == t and t > 1
        self.mask = None
        if not self.is_causal and not (t == 1 and first + 1 == self.end):
            self.mask = (torch.arange(self.end, device=device) <= self.positions[:, :, None])[:, None]
