"""Verify that a checkpoint is intact, finite and not rearranged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.progress import OnProgress, counted
from zoo.core.statistics import statistics
from zoo.core.tensors import Tensors
from zoo.errors import OptionError, ZooError
from zoo.examine.arrangement import Check, check_arrangement
from zoo.formats.base import Checkpoint
from zoo.formats.content_hash import check_recorded, hash_tensors, recorded_hash
from zoo.formats.opening import check_redundant, open_path
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.models.gpt2.model import GPTModel

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

_KNOWN = {
    # How OpenAI's 124M is recognised: three values at each end of the embedding, and its greedy ids for a prompt.
    "gpt2-small": (
        (-0.11010301, -0.03926672, 0.03310751),
        (0.00704835, 0.15519823, 0.12067825),
        (464, 3290),
        (373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290),
    )
}


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
    """Check that a checkpoint is intact, finite and not rearranged.

    Args:
        source: file or directory of any format.
        against: a second checkpoint, whose logits must agree.
        prompts: texts to run.
        format: of source; None recognises it.
        size: the model it must be.
        run: whether to run the model; without, only the file and its values are looked at.
        on_progress: called as on_progress(check, done, total) while tensors are read and the model runs.

    Returns:
        all checks, those that failed among them. A checkpoint that cannot be opened is one failed check.

    Raises:
        ZooError: `against` cannot be loaded, or a name leads to no checkpoint.
    """
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
    checks.append(check_arrangement(model, prompts, on_progress))
    checks.append(_known(model))
    if against is not None:
        checks.append(_against(model, load_path(against, dtype="float32"), prompts))
    return checks


def _values(checkpoint: Checkpoint, ours: Tensors, on_progress: OnProgress | None) -> list[Check]:
    """Read every tensor, which compares the container's checksums, and check that all values are finite."""
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


def _some_ids(model: GPTModel, prompt: str) -> list[int]:
    """Return ids to run. Which ones hardly matters: a model without text gets the bytes of the prompt."""
    try:
        return model.tokenizer.encode(prompt)
    except OptionError:
        return list(prompt.encode())


def _known(model: GPTModel) -> Check:
    """Compare a published model with its recorded answers."""
    import torch

    from zoo.generation.loop import decode
    from zoo.generation.options import GenerationOptions
    from zoo.generation.row import Row
    from zoo.generation.torch_backend import TorchBackend

    for name, (first, last, prompt, expected) in _KNOWN.items():
        table = model.tok_emb.weight
        if (
            len(table) >= 50257
            and table.shape[1] == 768
            and torch.allclose(table[0, :3], torch.tensor(first), atol=1e-6)
        ):
            if not torch.allclose(table[50256, -3:], torch.tensor(last), atol=1e-6):
                return Check(
                    "known answers", "failed", f"resembles OpenAI's {name}, but the end of the embedding differs"
                )
            options = GenerationOptions(temperature=0, max_new_tokens=len(expected), ignore_eos=True)
            row = Row(model.config, model.tokenizer, options, 0, prompt)
            ids = tuple(token.id for _, token in decode(TorchBackend(model), [row], 1))
            said = "gives the recorded answer" if ids == expected else f"says {list(ids)}, not {list(expected)}"
            return Check("known answers", "ok" if ids == expected else "failed", f"OpenAI's {name}: {said}")
    return Check("known answers", "skipped", "no published model whose answers are recorded")


def _against(model: GPTModel, other: GPTModel, prompts: Sequence[str]) -> Check:
    """Compare the logits on the prompts."""
    import torch

    if dataclasses.replace(model.config, dropout=0.0, vocab_rows=0) != dataclasses.replace(
        other.config, dropout=0.0, vocab_rows=0
    ):
        return Check("against", "failed", "the two have different configs; `zoo diff` shows them")
    worst, largest, same = 0.0, 0.0, True
    n = model.config.vocab_size
    with torch.no_grad():
        for prompt in prompts:
            # Ids outside a small vocabulary are replaced; which ids are run hardly matters here.
            ids = torch.tensor([_some_ids(model, prompt)[: model.config.context_length]]) % n
            a, b = model(ids)[..., :n], other(ids)[..., :n]
            worst, largest = max(worst, (a - b).abs().max().item()), max(largest, a.abs().max().item())
            same &= torch.equal(a.argmax(-1), b.argmax(-1))
    detail = f"logits differ by at most {worst:.3g}, {worst / largest:.2g} of the largest"
    return Check("against", "ok" if worst <= 1e-4 * largest and same else "failed", detail)
