"""The content hash of a model, which is the same in every format.

The hash is the BLAKE3 of a JSON text in ASCII, without spaces and with sorted keys: {"config": {...}, "tensors": {name:
[dtype, shape, hash], ...}}. Names, shapes and orientation are zoo's own (GPTConfig.parameter_shapes). Each hash is the
BLAKE3 of a tensor's values, little-endian in C order. Padding rows, from vocab_size on, are left out of embedding and
head; a tied head is not a tensor. Only CONFIG_FIELDS of the config are included: the shapes determine the sizes, and
dropout does not change what a trained model computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from zoo.core.stream import WORKERS
from zoo.core.tensors import LazyTensor, Tensors, chunks
from zoo.errors import CorruptFile
from zoo.formats.base import Checkpoint
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size

RECORD = "content_blake3"
"""The hash's key in the record of origin (provenance) of a file that zoo wrote."""

CONFIG_FIELDS = ("n_heads", "norm_eps", "activation", "tied")
PADDED = ("tok_emb.weight", "head.weight")


def hash_path(source: Path | str, *, format: str | None = None, size: Size | None = None) -> str:
    """Return the content hash of a checkpoint: the same for all its lossless conversions, in 64 hexadecimal digits.

    Args:
        source: file or directory of any format, or the name of a model.
        format: its name; None recognises it.
        size: the model it must be; formats that store no config take it from here.

    Raises:
        ZooError: as open_checkpoint; or the checkpoint is damaged.
    """
    found, checkpoint = open_path(source, format=format, size=size)
    ours, _ = found.to_ours(checkpoint)
    return hash_tensors(ours, checkpoint.config)


def hash_tensors(ours: Tensors, config: GPTConfig) -> str:
    """Return the content hash of tensors with zoo's names, reading them chunk by chunk."""
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = dict(zip(ours, pool.map(lambda name: _hash(unpadded(name, ours[name], config)), ours), strict=True))
    return combine(hashes, config)


def recorded_hash(checkpoint: Checkpoint) -> str | None:
    """Return the content hash that a checkpoint recorded when it was written; None if it has none."""
    value = checkpoint.provenance.get(RECORD)
    return value if isinstance(value, str) else None


def check_recorded(checkpoint: Checkpoint, found: str) -> None:
    """Compare the content hash that was recorded, if there is one, with what the tensors have now.

    Raises:
        CorruptFile: they differ.
    """
    recorded = recorded_hash(checkpoint)
    if recorded not in (None, found):
        raise CorruptFile(
            checkpoint.path,
            f"does not have the values that it was written with: their content hash is {found[:16]}..., and "
            f"{str(recorded)[:16]!r}... is recorded; copy or convert it again",
        )


def combine(hashes: Mapping[str, list[Any]], config: GPTConfig) -> str:
    """Return the content hash for tensors with these dtypes, shapes and hashes."""
    fields = {name: getattr(config, name) for name in CONFIG_FIELDS}
    text = json.dumps({"config": fields, "tensors": dict(hashes)}, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()


def unpadded(name: str, tensor: LazyTensor, config: GPTConfig) -> LazyTensor:
    """Drop the padding rows, which are not tokens."""
    if name not in PADDED or tensor.shape[0] == config.vocab_size:
        return tensor
    return LazyTensor((config.vocab_size, *tensor.shape[1:]), tensor.dtype, lambda: tensor.load()[: config.vocab_size])


def _hash(tensor: LazyTensor) -> list[Any]:
    digest = blake3()
    for chunk in chunks(tensor.load()):
        little = chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)
        digest.update(little.reshape(-1).view("u1"))  # type: ignore[arg-type] # numpy's arrays are buffers
    return [tensor.dtype.name, list(tensor.shape), digest.hexdigest()]
