"""Convert between torch tensors and numpy arrays, sharing memory where possible."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.core.tensors import DTYPES, Array


def to_torch(array: Array) -> Tensor:
    """Return a tensor that shares the array's memory if that is writable and aligned, otherwise a copy."""
    array = np.require(array, requirements=["C", "W", "A"])
    if array.dtype == DTYPES["bfloat16"]:  # torch does not support numpy's bfloat16
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> Array:
    """Return the array of a tensor. It shares the memory of a tensor on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()
