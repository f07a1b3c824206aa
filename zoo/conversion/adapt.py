"""Adapt a model to a format that cannot hold it as it is: padding rows, missing biases, dtypes, the activation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.core.tensors import DTYPES, LazyTensor, Tensors
from zoo.errors import OptionError
from zoo.formats.base import Checkpoint, Format
from zoo.formats.content_hash import RECORD, unpadded
from zoo.models.gpt2.config import ACTIVATION_DIFFERENCE, ACTIVATIONS, GPTConfig


def fill_biases(target: Format, config: GPTConfig, ours: Tensors) -> tuple[GPTConfig, dict[str, LazyTensor], list[str]]:
    """Add biases of exact zeros where the target has only models with biases; the logits stay the same.

    Returns:
        The config and the tensors to write, and a note if biases were added.
    """
    filled = config.replace(bias=True, qkv_bias=True)
    if filled == config or len(target.cannot_hold(filled)) >= len(target.cannot_hold(config)):
        return config, dict(ours), []
    dtype = next(iter(ours.values())).dtype
    shapes = filled.parameter_shapes()
    zeros = {name: _zeros(shape, dtype) for name, shape in shapes.items() if name not in ours}
    note = f"{len(zeros)} biases of exact zeros are added: {target.name} has no models without"
    return filled, {name: zeros[name] if name in zeros else ours[name] for name in shapes}, [note]


def drop_padding(
    target: Format, config: GPTConfig, ours: Tensors
) -> tuple[GPTConfig, dict[str, LazyTensor], list[str]]:
    """Leave out padding rows, unless the target's programs keep them apart from tokens.

    Others would take the rows for tokens: rows of zeros give logits of 0, which win where all others are negative.

    Returns:
        The config and the tensors to write, and a note if rows were left out.
    """
    n = config.vocab_rows - config.vocab_size
    if target.pads or n == 0:
        return config, dict(ours), []
    tensors = {name: unpadded(name, tensor, config) for name, tensor in ours.items()}
    return config.replace(vocab_rows=0), tensors, [f"{n} rows of padding, which are not tokens, are left out"]


def widening(target: Format, ours: Tensors) -> tuple[np.dtype[np.generic] | None, list[str]]:
    """Return float32 if a target does not store a dtype of the tensors that float32 holds exactly.

    Returns:
        The dtype to cast to, or None, and a note if there is one.
    """
    dtypes = {str(tensor.dtype) for tensor in ours.values()}
    narrow = dtypes - set(target.dtypes)
    if not narrow or not dtypes <= {"float32", "float16", "bfloat16"}:
        return None, []
    return DTYPES["float32"], [f"{', '.join(sorted(narrow))} becomes float32, exactly: {target.name} does not store it"]


def cast_parameter(target: Format, name: str, tensor: LazyTensor, dtype: np.dtype[np.generic]) -> LazyTensor:
    """Cast a parameter, unless the cast narrows one that the target keeps wide."""
    if tensor.dtype.itemsize > dtype.itemsize and not target.narrows(name, tensor.shape):
        return tensor
    return tensor.astype(dtype)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> LazyTensor:
    return LazyTensor(shape, dtype, lambda: np.zeros(shape, dtype))


def change_activation(source: Checkpoint, activation: str | None) -> Checkpoint:
    """Return a checkpoint whose config has another activation: the same weights, but other logits.

    Raises:
        OptionError: there is no such activation.
    """
    if activation is None or activation == source.config.activation:
        return source
    if activation not in ACTIVATIONS:
        raise OptionError(f"the activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    note = f"the activation is changed from {source.config.activation} to {activation}. {ACTIVATION_DIFFERENCE}"
    config = source.config.replace(activation=activation)
    provenance = {key: value for key, value in source.provenance.items() if key != RECORD}  # of the other model
    return replace(source, config=config, notes=(*source.notes, note), exact=False, provenance=provenance)
