"""Find matrices that a conversion rearranged: English is predicted best as the weights were trained.

No shape tells whether a C x C matrix is transposed, or which third of a 3C x C one is the query. Every other
arrangement is tried on plain English. Most are far worse, which a few tokens show already; the blocks before the one
that is rearranged are not run again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.core.progress import OnProgress, counted
from zoo.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.gpt2.model import GPTModel

# Another arrangement is believed to be better from this many nats per token on, and this many standard errors.
_MARGIN, _SIGMAS = 0.05, 4.0
_FIRST_TOKENS = 24
"""Of the first text, tried before the rest."""
_HOPE = (-1.0, -0.5)
"""Standard errors of the gain on these tokens, and on the first text, below which an arrangement is given up. Undoing
any arrangement of the model `stories` that the whole texts show is above them.
"""

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: of the check.
        status: ok, failed, or skipped.
        detail: what was found, in a sentence.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class _Text:
    """A text as the model runs it.

    Attributes:
        ids: (T + 1,) int64.
        entering: what enters each block, (1, T, C) each.
        losses: of each token, in nats, (T,).
    """

    ids: Tensor
    entering: list[Tensor]
    losses: Tensor

    def start(self, n: int) -> _Text:
        """Return the first n tokens; attention is causal, so nothing has to be run again."""
        return _Text(self.ids[: n + 1], [x[:, :n] for x in self.entering], self.losses[:n])


@dataclass(frozen=True)
class _Way:
    """Another arrangement of the square matrices of some blocks.

    Attributes:
        name: for people.
        blocks: that are rearranged, in order.
        order: which thirds are taken as query, key and value.
        transpose: whether attn.out is transposed.
    """

    name: str
    blocks: list[int]
    order: str
    transpose: bool


def check_arrangement(model: GPTModel, prompts: Sequence[str], on_progress: OnProgress | None = None) -> Check:
    """Check that no other arrangement of the square matrices predicts the prompts better.

    Args:
        model: in evaluation mode, in float32.
        prompts: plain English.
        on_progress: called with the arrangements tried so far.
    """
    import torch

    try:
        ids = [model.tokenizer.encode(prompt)[: model.config.context_length + 1] for prompt in prompts]
    except OptionError as error:  # the vocabulary is missing, damaged, or has no tokens for English
        return Check("arrangement", "skipped", str(error))
    ids = [text for text in ids if len(text) > 1]
    if not ids:
        return Check("arrangement", "skipped", "the text has no two tokens, so nothing is predicted")
    if (n := max(map(max, ids))) >= model.config.vocab_size:
        detail = f"the text has token id {n}, but the model's ids are 0 to {model.config.vocab_size - 1}"
        return Check("arrangement", "skipped", detail)
    with torch.no_grad():
        texts = [_run(model, text) for text in ids]
        loss, chance = torch.cat([text.losses for text in texts]).mean().item(), math.log(model.config.vocab_size)
        trained = loss < chance - 1  # one wrong block alone does not take a trained model to chance
        ways = [way for way in _ways(model) if trained or way.blocks[0] == 0]
        # What is at chance because it is rearranged gains at least this much when it is put right.
        least = 0.0 if trained else loss - (chance - 1)
        tried = [
            (_find_better(model, texts, way, least), way.name)
            for way in counted(ways, "arrangement", len(ways), on_progress)
        ]
    better = [(other.mean().item(), name) for other, name in tried if other is not None]
    if better:
        best, name = min(better)
        return Check("arrangement", "failed", f"loss {loss:.2f} on plain English, but {best:.2f} with {name}")
    if not trained:
        detail = f"loss {loss:.2f} on plain English, where guessing has {chance:.2f}; this check needs a trained model"
        return Check("arrangement", "skipped", detail)
    detail = f"loss {loss:.2f} on plain English; none of {len(ways)} other arrangements is clearly better"
    return Check("arrangement", "ok", detail)


def _run(model: GPTModel, text: list[int]) -> _Text:
    """Run a text through the model as it is, keeping what enters each block."""
    import torch

    ids = torch.tensor(text)
    x = (model.tok_emb(ids[:-1]) + model.pos_emb(torch.arange(len(text) - 1)))[None]
    entering = []
    for layer, block in enumerate(model.blocks):
        entering.append(x)
        x = block(x, None, layer)
    return _Text(ids, entering, _losses(model, x, ids))


def _losses(model: GPTModel, x: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of each token, given what leaves the last block."""
    import torch.nn.functional as F

    logits = model.logits(model.final_norm(x))[0, :, : model.config.vocab_size]
    return F.cross_entropy(logits, ids[1:], reduction="none")


def _find_better(model: GPTModel, texts: list[_Text], way: _Way, least: float) -> Tensor | None:
    """Return the losses with another arrangement if they are lower by more than chance explains, otherwise None.

    Args:
        model: that is tried.
        texts: as the model runs them now.
        way: the other arrangement.
        least: nats per token that it must gain; half of them show on a few tokens already.
    """
    import torch

    def run(text: _Text) -> Tensor:
        x = text.entering[way.blocks[0]]
        for layer in range(way.blocks[0], model.config.n_layers):
            x = model.blocks[layer](x, None, layer)
        return _losses(model, x, text.ids)

    with _rearranged(model, way):
        for some, hope in zip(([texts[0].start(_FIRST_TOKENS)], texts[:1]), _HOPE, strict=True):
            gain, error = _gain(some, run(some[0]))
            if gain < hope * error or gain < least / 2:
                return None
        found = torch.cat([run(text) for text in texts])
    gain, error = _gain(texts, found)
    return found if gain > max(_MARGIN, least, _SIGMAS * error) else None


def _gain(texts: list[_Text], found: Tensor) -> tuple[float, float]:
    """Return by how much losses are lower, in nats per token, and the standard error of that."""
    import torch

    gains = torch.cat([text.losses for text in texts]) - found
    return gains.mean().item(), gains.std().item() / math.sqrt(len(gains))


def _ways(model: GPTModel) -> Iterator[_Way]:
    """Other arrangements: all of them made in all blocks, the likeliest in each block alone."""
    blocks = list(range(model.config.n_layers))
    orders = ["".join(order) for order in itertools.permutations("qkv")]
    for order, transpose in itertools.product(orders, (False, True)):
        if (order, transpose) != ("qkv", False):
            yield _Way(_name(order, transpose) + " in all blocks", blocks, order, transpose)
    for i in blocks:
        for order, transpose in (("qkv", True), ("kqv", False), ("qvk", False), ("vkq", False)):
            yield _Way(_name(order, transpose) + f" in block {i}", [i], order, transpose)


def _name(order: str, transpose: bool) -> str:
    parts = [f"query, key and value taken as {', '.join(order)}"] if order != "qkv" else []
    return " and ".join([*parts, *(["attn.out transposed"] if transpose else [])])


@contextmanager
def _rearranged(model: GPTModel, way: _Way) -> Iterator[None]:
    """Rearrange the square matrices of some blocks inside a `with` block."""
    import torch

    attns: list[Any] = [model.blocks[i].attn for i in way.blocks]
    changed = [p for attn in attns for p in (attn.qkv.weight, attn.qkv.bias, attn.out.weight) if p is not None]
    saved = [parameter.data for parameter in changed]
    try:
        for attn in attns:
            for parameter in filter(lambda p: p is not None, (attn.qkv.weight, attn.qkv.bias)):
                thirds = parameter.data.chunk(3)
                parameter.data = torch.cat([thirds["qkv".index(letter)] for letter in way.order])
            if way.transpose:
                attn.out.weight.data = attn.out.weight.data.T
        yield
    finally:
        for parameter, data in zip(changed, saved, strict=True):
            parameter.data = data
