"""Torch tensors as numpy arrays and back, sharing memory where that is possible."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.core.tensors import DTYPES, Array


def to_torch(array: Array) -> Tensor:
    """Return a tensor that shares the array's memory where that can be written to and is aligned, a copy elsewhere."""
    array = np.require(array, requirements=["C", "W", "A"])
    if array.dtype == DTYPES["bfloat16"]:  # torch does not know numpy's bfloat16
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> Array:
    """Return the array of a tensor, sharing its memory where it is on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()
