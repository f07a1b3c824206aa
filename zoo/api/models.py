"""Load models that a user names."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo.formats.loading import load_path
from zoo.hub.resolve import find_checkpoint
from zoo.models.gpt2.model import GPTModel
from zoo.models.registry import Size


def load(
    source: str | Path,
    *,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    device: torch.device | str = "cpu",
    check: bool = False,
) -> GPTModel:
    """Load a model, in evaluation mode, with its tokenizer.

    A zoo file is mapped, not read: weights come from the disk when they are used, and copies share the memory. Changing
    them, by training say, changes neither the file nor what others see.

    Args:
        source: path of a checkpoint in any format, or a registered name: "stories" comes with the package.
        format: name of the format; None recognises it by its content.
        size: the model it must be, by name or config.
        dtype: to cast to, such as "bfloat16"; None keeps the file's, float32 where it has several.
        device: to put the weights on.
        check: whether to compare the values with the content hash that zoo records in its files; reads all of them.

    Raises:
        MissingWeights: source is a registered name whose weights are not on this machine.
        UnknownName: there is no such file, and no such model either.
        ZooError: the checkpoint is damaged, or not what format and size say; with check, its values are not
            those that it was written with, or it records no hash.
    """
    return load_path(find_checkpoint(source), format=format, size=size, dtype=dtype, device=device, check=check)
