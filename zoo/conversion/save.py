"""Write a model that is in memory, in any format."""

from __future__ import annotations

from pathlib import Path

from zoo.conversion.plan import trimmed
from zoo.conversion.run import format_of_suffix
from zoo.core.output import atomic_output
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold, OptionError
from zoo.formats.base import Checkpoint, WriteOptions
from zoo.formats.registry import get_format
from zoo.formats.rules import to_theirs
from zoo.models.arrays import to_numpy
from zoo.models.gpt2.model import GPTModel
from zoo.text.vocabulary import Vocabulary


def save(model: GPTModel, out: str | Path, *, to: str | None = None, force: bool = False) -> None:
    """Write a model in any format; the output appears only when it is whole.

    Args:
        model: to write.
        out: file or directory.
        to: the format; None takes the one that out's suffix means.
        force: whether an existing output may be replaced.

    Raises:
        OptionError: out's suffix means no format, and none is given; or the model has LoRA adapters.
        CannotHold: the format has no place for this model.
        OutputError: out exists or cannot be written.
    """
    out = Path(out)
    target = get_format(to or format_of_suffix(out))
    if reasons := target.cannot_hold(trimmed(target, model.config, {})[0]):
        raise CannotHold(f"the format {target.name} cannot hold this model: {'; '.join(reasons)}")
    state = model.state_dict()
    if any("lora_" in name for name in state):
        hint = (
            "merge them with zoo.train.step.lora.merge_lora, or save them alone with zoo.train.step.lora.save_adapter"
        )
        raise OptionError(f"the model has LoRA adapters, which {target.name} has no place for; {hint}")
    ours = {name: LazyTensor.of(to_numpy(state[name])) for name in model.config.parameter_shapes()}
    config, ours = trimmed(target, model.config, ours)
    vocabulary = model.tokenizer.vocabulary  # a model made from scratch has GPT-2's, whatever its size
    checkpoint = Checkpoint(
        Path(),
        config,
        to_theirs(target.table, ours, config),
        vocabulary=vocabulary if vocabulary.n_tokens <= config.vocab_rows else Vocabulary(),
    )
    needed = sum(target.nbytes(name, tensor, "") for name, tensor in checkpoint.tensors.items())
    with atomic_output(out, needed=needed, force=force) as temporary:
        target.write(temporary, checkpoint, WriteOptions())
