"""The torch module as a backend of the decode loop: any device and dtype, trained in place, with hooks or adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.models.gpt2.kv_cache import KVCache
from zoo.models.gpt2.model import GPTModel


class TorchBackend:
    """A torch module as a Backend. Dropout is off while it computes."""

    def __init__(self, model: GPTModel) -> None:
        self._model, self.config, self.tokenizer = model, model.config, model.tokenizer

    def new_cache(self, batch: int, room: int) -> KVCache:
        """Return an empty cache in the dtype and on the device of the weights."""
        weight = self._model.tok_emb.weight
        return KVCache(self.config, batch, room, dtype=weight.dtype, device=weight.device)

    @torch.inference_mode()
    def logits(
        self, ids: Sequence[Sequence[int]], cache: KVCache, rows: Sequence[int], last: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Compute all prompts in one padded pass, and the other rows in one pass per number of new tokens."""
        if self._model.mapped_files:
            self._model.mapped_files.check()
        held = cache.lengths.tolist()
        groups: dict[int, list[int]] = {}
        for i, (part, row) in enumerate(zip(ids, rows, strict=True)):
            groups.setdefault(len(part) if held[row] else 0, []).append(i)
        found: dict[int, NDArray[np.float32]] = {}
        with _evaluating(self._model):
            for group in groups.values():
                parts = [ids[i] for i in group]
                logits = self._forward(parts, cache, [rows[i] for i in group], max(last[i] for i in group))
                for i, part, each in zip(group, parts, logits, strict=True):
                    found[i] = each[-1:] if len(each) == 1 else each[len(part) - last[i] : len(part)]
        return [found[i] for i in range(len(ids))]

    def _forward(self, parts: list[Sequence[int]], cache: KVCache, rows: list[int], last: int) -> NDArray[np.float32]:
        """Return the logits after the last token of each list, (B, 1, V); after all tokens, (B, T, V), if last > 1."""
        lengths = self._tensor([len(part) for part in parts])
        longest = max(map(len, parts))
        ids = self._tensor([[*part, *[0] * (longest - len(part))] for part in parts])  # (B, T)
        is_prefix = rows == list(range(len(rows)))
        some = cache.first(len(rows)) if is_prefix else cache.select(self._tensor(rows), longest)
        ends = some.lengths + lengths
        logits = self._model(ids, some, lengths - 1)[:, None] if last == 1 else self._model(ids, some)
        some.lengths.copy_(ends)
        if not is_prefix:
            cache.put_rows(self._tensor(rows), some, self._tensor(range(len(rows))))
        array: NDArray[np.float32] = logits[..., : self.config.vocab_size].float().cpu().numpy()
        return array

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._model.tok_emb.weight.device)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, then restore the mode of each module."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
