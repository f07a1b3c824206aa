"""Whether a checkpoint is what it should be: whole, finite, and not subtly rearranged."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.core.progress import OnProgress, counted
from zoo.core.statistics import statistics
from zoo.core.tensors import Tensors
from zoo.errors import ZooError
from zoo.formats.base import Checkpoint
from zoo.formats.content_hash import check_recorded, hash_tensors, recorded_hash
from zoo.formats.opening import check_redundant, open_path
from zoo.models.registry import Size

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.gpt2.model import GPTModel

Status = Literal["ok", "failed", "skipped"]

PROMPTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of "
    "some one or other of their daughters.",
    "Once upon a time there was a little girl who lived with her mother in a small house near the forest. One day her "
    "mother said to her: come, take this cake and this bottle to your grandmother, for she is ill and weak, and they "
    "will do her good. Set out before it gets hot, and when you are going, walk nicely and quietly and do not run off "
    "the path, or you may fall and break the bottle, and then your grandmother will get nothing.",
    "The old man sat down by the fire and looked at the children. When I was a boy, he said, there was no road here, "
    "and no bridge over the river. We went to school on foot, and in winter the snow was so deep that we could not see "
    "the trees. But we were happy, for we had a good dog, and my father told us stories every night.",
)
"""Plain English that any GPT-2 predicts better than chance: the beginnings of Pride and Prejudice and of two tales."""

# Another arrangement is believed to be better from this many nats per token on, and this many standard errors.
_MARGIN, _SIGMAS = 0.05, 4.0

_KNOWN = {
    # What the first page of OpenAI's 124M says: three values at each end of the embedding, and greedy ids.
    "gpt2-small": (
        (-0.11010301, -0.03926672, 0.03310751),
        (0.00704835, 0.15519823, 0.12067825),
        (464, 3290),
        (373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290),
    )
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        status: ok, failed, or skipped.
        detail: what was found, in a sentence.
    """

    name: str
    status: Status
    detail: str


def verify_path(
    source: Path | str,
    *,
    against: Path | str | None = None,
    prompts: Sequence[str] = PROMPTS,
    format: str | None = None,
    size: Size | None = None,
    run: bool = True,
    on_progress: OnProgress | None = None,
) -> list[Check]:
    """Verify the checkpoint at a path; zoo.verify describes arguments and errors."""
    try:
        found, checkpoint = open_path(source, format=format, size=size)
        ours, drops = found.to_ours(checkpoint)
        check_redundant(checkpoint, drops)
    except ZooError as error:
        return [Check("structure", "failed", str(error))]
    config = checkpoint.config
    checks = [Check("structure", "ok", f"{found.name}, {len(ours)} tensors, {config.n_parameters:,} parameters")]
    checks += _values(checkpoint, ours, on_progress)
    if checks[-1].status == "ok":
        checks.append(_content(checkpoint, ours))
    if not run or any(check.status == "failed" for check in checks):
        return [*checks, Check("arrangement", "skipped", "the model was not run")]
    from zoo.formats.loading import load_path

    model = load_path(source, format=format, size=size, dtype="float32")
    checks.append(_arrangement(model, prompts, on_progress))
    checks.append(_known(model))
    if against is not None:
        checks.append(_against(model, load_path(against, dtype="float32"), prompts))
    return checks


def _values(checkpoint: Checkpoint, ours: Tensors, on_progress: OnProgress | None) -> list[Check]:
    """Read every tensor: its container compares checksums where it has some, and every value must be a number."""
    bad, flat = [], []
    for name, tensor in counted(ours.items(), "values", len(ours), on_progress):
        try:
            numbers = statistics(tensor)
        except ZooError as error:
            return [Check("values", "failed", str(error))]
        if numbers.nan or numbers.inf:
            bad.append(f"{name} ({numbers.nan:,} NaN, {numbers.inf:,} infinite)")
        elif numbers.min == numbers.max and name.endswith("weight") and "norm" not in name:
            flat.append(f"{name} (all {numbers.min:g})")
    if bad or flat:
        return [Check("values", "failed", f"not finite or constant: {', '.join([*bad, *flat][:5])}")]
    detail = f"every value of {len(ours)} tensors is finite"
    if checksums := checksums_of(checkpoint.files):
        detail += f"; {checksums} agree"
    return [Check("values", "ok", detail)]


def checksums_of(files: Sequence[Path]) -> str:
    """Name the checksums that a checkpoint's containers have of all their values, "" where they have none."""
    if any(path.suffix == ".index" for path in files):
        return "TensorFlow's checksums (CRC-32C)"
    starts = [_first_bytes(path) for path in files if path.suffix != ".json"]
    return "the checksums of the zip archive (CRC-32)" if starts and all(start == b"PK" for start in starts) else ""


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _content(checkpoint: Checkpoint, ours: Tensors) -> Check:
    """Compare the content hash that zoo recorded when it wrote the file."""
    if recorded_hash(checkpoint) is None:
        return Check("content", "skipped", "the files record no content hash, so a changed value cannot be noticed")
    try:
        check_recorded(checkpoint, hash_tensors(ours, checkpoint.config))
    except ZooError as error:
        return Check("content", "failed", str(error))
    return Check("content", "ok", "the values are those that were written: the recorded content hash agrees")


def _arrangement(model: GPTModel, prompts: Sequence[str], on_progress: OnProgress | None) -> Check:
    """Find transposed or exchanged square matrices: English is predicted best as the weights were trained.

    No shape tells whether a C x C matrix is transposed, or which third of a 3C x C one is the query.
    """
    if (n := max(i for prompt in prompts for i in model.tokenizer.encode(prompt))) >= model.config.vocab_size:
        detail = f"the text has token id {n}, but the model's ids are 0 to {model.config.vocab_size - 1}"
        return Check("arrangement", "skipped", detail)
    losses = _losses(model, prompts)
    loss, chance = losses.mean().item(), math.log(model.config.vocab_size)
    ways = list(_ways(model))
    others = [
        (name, _losses(model, prompts, blocks, order, transpose))
        for name, blocks, order, transpose in counted(ways, "arrangement", len(ways), on_progress)
    ]
    better = [(other.mean().item(), name) for name, other in others if _is_better(other, losses)]
    if better:
        best, name = min(better)
        return Check("arrangement", "failed", f"loss {loss:.2f} on plain English, but {best:.2f} with {name}")
    if not loss < chance - 1:
        detail = f"loss {loss:.2f} on plain English, where guessing has {chance:.2f}; this check needs a trained model"
        return Check("arrangement", "skipped", detail)
    best, name = min((other.mean().item(), name) for name, other in others)
    detail = f"loss {loss:.2f} on plain English; no other arrangement is clearly better (best: {best:.2f}, {name})"
    return Check("arrangement", "ok", detail)


def _is_better(other: Tensor, losses: Tensor) -> bool:
    """Whether token by token losses are lower by more than chance explains, for the best of a hundred tries."""
    gains = losses - other
    error = gains.std().item() / math.sqrt(len(gains))
    return gains.mean().item() > max(_MARGIN, _SIGMAS * error)


def _ways(model: GPTModel) -> Iterator[tuple[str, list[int], str, bool]]:
    """Other arrangements: all of them made in all blocks, the likeliest in each block alone."""
    blocks = list(range(model.config.n_layers))
    orders = ["".join(order) for order in itertools.permutations("qkv")]
    for order, transpose in itertools.product(orders, (False, True)):
        if (order, transpose) != ("qkv", False):
            yield _name(order, transpose) + " in all blocks", blocks, order, transpose
    for i in blocks:
        for order, transpose in (("qkv", True), ("kqv", False), ("qvk", False), ("vkq", False)):
            yield _name(order, transpose) + f" in block {i}", [i], order, transpose


def _name(order: str, transpose: bool) -> str:
    parts = [f"query, key and value taken as {', '.join(order)}"] if order != "qkv" else []
    return " and ".join([*parts, *(["attn.out transposed"] if transpose else [])])


@contextmanager
def _rearranged(model: GPTModel, blocks: Sequence[int], order: str, transpose: bool) -> Iterator[None]:
    """Have the square matrices of some blocks in another arrangement for a while."""
    import torch

    attns: list[Any] = [model.blocks[i].attn for i in blocks]
    changed = [p for attn in attns for p in (attn.qkv.weight, attn.qkv.bias, attn.out.weight) if p is not None]
    saved = [parameter.data for parameter in changed]
    try:
        for attn in attns:
            for parameter in filter(lambda p: p is not None, (attn.qkv.weight, attn.qkv.bias)):
                thirds = parameter.data.chunk(3)
                parameter.data = torch.cat([thirds["qkv".index(letter)] for letter in order])
            if transpose:
                attn.out.weight.data = attn.out.weight.data.T
        yield
    finally:
        for parameter, data in zip(changed, saved, strict=True):
            parameter.data = data


def _losses(
    model: GPTModel, prompts: Sequence[str], blocks: Sequence[int] = (), order: str = "qkv", transpose: bool = False
) -> Tensor:
    """Loss of each token of the prompts, in nats, with some blocks in another arrangement: (N,)."""
    import torch
    import torch.nn.functional as F

    found = []
    with torch.no_grad(), _rearranged(model, blocks, order, transpose):
        for prompt in prompts:
            ids = torch.tensor([model.tokenizer.encode(prompt)[: model.config.context_length + 1]])
            logits = model(ids[:, :-1])[0, :, : model.config.vocab_size]
            found.append(F.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return torch.cat(found)


def _known(model: GPTModel) -> Check:
    """Compare a published model with what it is known to say."""
    import torch

    from zoo.generation.loop import decode
    from zoo.generation.options import GenerationOptions
    from zoo.generation.row import Row
    from zoo.generation.torch_backend import TorchBackend

    for name, (first, last, prompt, expected) in _KNOWN.items():
        table = model.tok_emb.weight
        if table.shape[0] >= 50257 and torch.allclose(table[0, :3], torch.tensor(first), atol=1e-6):
            if not torch.allclose(table[50256, -3:], torch.tensor(last), atol=1e-6):
                return Check("known answers", "failed", f"is OpenAI's {name} but for the embedding's end")
            options = GenerationOptions(temperature=0, max_new_tokens=len(expected), ignore_eos=True)
            row = Row(model.config, model.tokenizer, options, 0, prompt)
            ids = tuple(token.id for _, token in decode(TorchBackend(model), [row], 1))
            said = "says what it is known to say" if ids == expected else f"says {list(ids)}, not {list(expected)}"
            return Check("known answers", "ok" if ids == expected else "failed", f"OpenAI's {name}: {said}")
    return Check("known answers", "skipped", "no published model whose answers are recorded")


def _against(model: GPTModel, other: GPTModel, prompts: Sequence[str]) -> Check:
    """Compare logits on the prompts."""
    import torch

    if dataclasses.replace(model.config, dropout=0.0, vocab_rows=0) != dataclasses.replace(
        other.config, dropout=0.0, vocab_rows=0
    ):
        return Check("against", "failed", "the two have different configs; `zoo diff` shows them")
    worst, largest, same = 0.0, 0.0, True
    n = model.config.vocab_size
    with torch.no_grad():
        for prompt in prompts:
            # Ids that a small vocabulary lacks become others: which ones are run matters little here.
            ids = torch.tensor([model.tokenizer.encode(prompt)[: model.config.context_length]]) % n
            a, b = model(ids)[..., :n], other(ids)[..., :n]
            worst, largest = max(worst, (a - b).abs().max().item()), max(largest, a.abs().max().item())
            same &= torch.equal(a.argmax(-1), b.argmax(-1))
    detail = f"logits differ by at most {worst:.3g}, {worst / largest:.2g} of the largest"
    return Check("against", "ok" if worst <= 1e-4 * largest and same else "failed", detail)
