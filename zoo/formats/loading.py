"""Load a model from a checkpoint at a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from zoo.core.mapped import MappedFiles
from zoo.core.tensors import DTYPES, get_dtype
from zoo.errors import FormatError
from zoo.formats.content_hash import check_recorded, hash_tensors, recorded_hash
from zoo.formats.opening import open_parameters
from zoo.models.arrays import to_torch
from zoo.models.device import find_device
from zoo.models.gpt2.model import GPTModel
from zoo.models.registry import Size
from zoo.text.tokenizer import Tokenizer


def load_path(
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
    device = find_device(device)
    opened = open_parameters(source, format=format, size=size)
    if check:
        if recorded_hash(opened.checkpoint) is None:
            raise FormatError(source, "records no content hash, so its values cannot be checked; load it without check")
        check_recorded(opened.checkpoint, hash_tensors(opened.tensors, opened.checkpoint.config))
    with torch.device("meta"):
        model = GPTModel(opened.checkpoint.config, Tokenizer(opened.checkpoint.vocabulary))
    cast = get_dtype(dtype) if dtype else _common_dtype({tensor.dtype for tensor in opened.tensors.values()})
    for name, tensor in opened.tensors.items():
        array = tensor.astype(cast).load()
        if model.mapped_files is None and device.type == "cpu":
            model.mapped_files = MappedFiles.of(opened.checkpoint.files, [array])
        module, _, leaf = name.rpartition(".")
        value = to_torch(array).to(device)
        # Names and shapes are already checked; load_state_dict would check them again, for half of the loading time.
        setattr(model.get_submodule(module), leaf, nn.Parameter(value))
    return model.eval()


def _common_dtype(dtypes: set[np.dtype[np.generic]]) -> np.dtype[np.generic]:
    """Return the dtype of all tensors, or float32 (float64, if present) for several: a model computes in one dtype."""
    return dtypes.pop() if len(dtypes) == 1 else max({DTYPES["float32"], *dtypes}, key=lambda dtype: dtype.itemsize)
