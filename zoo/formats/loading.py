"""Load a model from a checkpoint at a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from zoo.core.tensors import DTYPES, get_dtype
from zoo.errors import FormatError, OptionError
from zoo.formats.content_hash import check_recorded, hash_tensors, recorded_hash
from zoo.formats.opening import open_parameters
from zoo.models.arrays import to_torch
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
    """Load the model at a path; zoo.load describes arguments and errors."""
    device = _usable(device)
    opened = open_parameters(source, format=format, size=size)
    if check:
        if recorded_hash(opened.checkpoint) is None:
            raise FormatError(source, "records no content hash, so its values cannot be checked; load it without check")
        check_recorded(opened.checkpoint, hash_tensors(opened.tensors, opened.checkpoint.config))
    with torch.device("meta"):
        model = GPTModel(opened.checkpoint.config, Tokenizer(opened.checkpoint.vocabulary))
    cast = get_dtype(dtype) if dtype else _common_dtype({tensor.dtype for tensor in opened.tensors.values()})
    for name, tensor in opened.tensors.items():
        module, _, leaf = name.rpartition(".")
        value = to_torch(tensor.astype(cast).load()).to(device)
        # Names and shapes are already checked; load_state_dict would check them again, for half of the loading time.
        setattr(model.get_submodule(module), leaf, nn.Parameter(value))
    return model.eval()


def _usable(device: torch.device | str) -> torch.device:
    """Return a device of this machine.

    Raises:
        OptionError: there is none of this name.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"there is no device {str(device)[:50]!r} on this machine; use cpu") from error
    return found


def _common_dtype(dtypes: set[np.dtype[np.generic]]) -> np.dtype[np.generic]:
    """Return the dtype of all tensors, or float32 (float64, if present) for several: a model computes in one dtype."""
    return dtypes.pop() if len(dtypes) == 1 else max({DTYPES["float32"], *dtypes}, key=lambda dtype: dtype.itemsize)
